"""`gpt2-runtime explain`."""

from __future__ import annotations

import click

from gpt2_runtime.cli import options
from gpt2_runtime.cli.generate import token_ids
from gpt2_runtime.cli.interruption import held
from gpt2_runtime.cli.streams import output_path, print_json, read_text
from gpt2_runtime.errors import SettingError, counted
from gpt2_runtime.explain import page
from gpt2_runtime.explain.explainer import TOP, Explainer, report
from gpt2_runtime.folder.bundle import Bundle
from gpt2_runtime.generation.config import Overflow


@click.command()
@options.folder
@click.argument("prompt", required=False)
@click.option("--prompt-ids", metavar="IDS", callback=token_ids, help="Token ids instead of PROMPT, such as 464,3290.")
@click.option("--html", "html", metavar="FILE", type=click.Path(), help="Write the page to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, without attention.")
@click.option("--top", type=int, default=TOP, show_default=True, help="Show this many predictions for each token.")
@click.option("--generate", type=int, default=0, help="Generate this many more tokens, and explain them too.")
@click.option(
    "--overflow",
    type=click.Choice(["error", "truncate"]),
    default="error",
    show_default=True,
    help="If the prompt is too long: refuse it, or keep its last tokens.",
)
@click.option("--force", is_flag=True, help="Replace FILE.")
@options.provider
@options.threads
@options.check_hashes
@options.guarded
def explain(
    folder: str,
    prompt: str | None,
    prompt_ids: list[int] | None,
    html: str | None,
    as_json: bool,
    top: int,
    generate: int,
    overflow: Overflow,
    force: bool,
    provider: str,
    threads: int | None,
    check_hashes: bool,
) -> None:
    """Shows how FOLDER's model reads PROMPT, as one HTML page.

    The page shows how likely each token was and what else could have come, what every layer would have predicted (the
    logit lens), and what every attention head looked at. It needs no network and no other file. If PROMPT is -, it is
    read from standard input. It may have 256 tokens, including those of --generate.

    \b
    Examples:
      gpt2-runtime explain out/demo "To be, or not to be" --html to-be.html
      gpt2-runtime explain out/gpt2 "The capital of France is" --generate 5 --html france.html
      gpt2-runtime explain out/gpt2 --prompt-ids 464,3290 --json
    """
    given = prompt if prompt_ids is None else prompt_ids
    if given is None or None not in (prompt, prompt_ids):
        raise click.UsageError("Give either PROMPT or --prompt-ids.")
    if (html is None) is not as_json:
        raise click.UsageError("Give either --html FILE or --json.")
    html_file = None if html is None else output_path("--html", html)
    if html_file is not None:
        page.refuse_existing(html_file, force=force)
    bundle = Bundle.open(folder, check_hashes=check_hashes)
    if html_file is not None and bundle.owns(html_file):
        raise SettingError(f"{html_file} is a file of the model in {folder}; name another file")
    explainer = Explainer.open(bundle, provider=provider, threads=threads, load="auto")
    explanation = explainer.explain(
        read_text("-") if given == "-" else given,
        top=top,
        generate=generate,
        overflow=overflow,
    )
    if html_file is None:
        print_json(report(explanation))
        return
    text = page.render(explanation)
    with held():
        page.write(text, html_file, force=force)
    click.echo(f"{html_file}: {counted(len(explanation.token_ids), 'token')}, {html_file.stat().st_size:,} bytes")
