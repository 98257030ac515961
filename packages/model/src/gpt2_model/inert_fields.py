"""`INERT`: the fields of config.json that cannot change a logit, each with the reason.

Collected from the attributes of GPT2Config and PretrainedConfig in transformers 2 to 5, and from the files published
for gpt2 (all sizes), distilgpt2, DialoGPT, ruGPT-3, KoGPT-2, Cerebras-GPT, codeparrot and CRFM's models.
"""

# Sampling settings, today in generation_config.json. Where that is absent, transformers reads them from config.json.
# fmt: off
GENERATION_FIELDS = frozenset((
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens",
))

_FIELDS_BY_REASON: dict[str, tuple[str, ...]] = {
    "how to sample": tuple(sorted(GENERATION_FIELDS)),
    "a name or where the file came from": (
        "_name_or_path", "name_or_path", "_commit_hash", "architectures", "transformers_version",
        "transformers_weights", "tokenizer_class", "license", "author", "created_date", "finetuning_task",
        "unsloth_version",
    ),
    "the stored dtype; the weight file's own is used": ("dtype", "torch_dtype"),
    "which implementation transformers picks": (
        "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
        "attn_implementation", "_experts_implementation", "_experts_implementation_internal",
        "experts_implementation", "torchscript", "gradient_checkpointing", "xla_device", "tf_legacy_loss",
    ),
    "what transformers returns, not what it computes": (
        "use_cache", "output_attentions", "_output_attentions", "output_hidden_states", "output_past",
        "output_scores", "return_dict", "use_return_dict", "return_dict_in_generate",
    ),
    "for encoder-decoder models; add_cross_attention itself is checked": (
        "is_decoder", "cross_attention_hidden_size", "decoder_start_token_id",
    ),
    "a special token, for the tokenizer and the decode loop": (
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "eos_token_ids", "prefix",
    ),
    "GPT-1's count of special tokens; GPT-2 never read it, vocab_size counts all rows": (
        "n_special", "predict_special_tokens",
    ),
    "for another head, not the language model's": (
        "id2label", "label2id", "num_labels", "_num_labels", "problem_type", "summary_activation",
        "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "num_choices",
    ),
    "sampling settings of pipelines, by task": ("task_specific_params",),
    "another runtime's own settings": ("transformers.js_config",),
}
# fmt: on

INERT = {field: reason for reason, fields in _FIELDS_BY_REASON.items() for field in fields}
