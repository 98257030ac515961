// What transformers.js answers, in Node and in the browser alike.
import { AutoModelForCausalLM, AutoTokenizer, Tensor } from "@huggingface/transformers";

/** Of each folder: the continuations of its prompts, each alone and all as one batch, and the tokens of its texts. */
export async function answers(questions, options) {
  const found = {};
  for (const [folder, { prompts, starts, texts, count }] of Object.entries(questions)) {
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const model = await AutoModelForCausalLM.from_pretrained(folder, options);
    const alone = [];
    for (const prompt of [...prompts, ...starts]) alone.push(...(await continued(model, [prompt], count)));
    found[folder] = {
      greedy: alone.slice(0, prompts.length),
      stopped: alone.slice(prompts.length),
      batch: await continued(model, prompts, count),
      tokens: texts.map((text) => tokenizer.encode(text)),
    };
    await model.dispose();
  }
  return found;
}

/** The new tokens of a left-padded batch. */
async function continued(model, rows, count) {
  const length = Math.max(...rows.map((row) => row.length));
  const padding = rows.map((row) => Array(length - row.length).fill(0));
  const ids = rows.map((row, index) => [...padding[index], ...row]);
  const mask = rows.map((row, index) => [...padding[index], ...row.map(() => 1)]);
  const tensor = (values) => new Tensor("int64", BigInt64Array.from(values.flat().map(BigInt)), [rows.length, length]);
  const sequences = await model.generate({
    input_ids: tensor(ids),
    attention_mask: tensor(mask),
    do_sample: false,
    max_new_tokens: count,
  });
  return sequences.tolist().map((row) => row.slice(length).map(Number));
}
