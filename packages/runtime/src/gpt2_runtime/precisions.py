"""The precisions that the runtime knows, the most exact first."""

PRECISIONS = ("fp32", "fp16", "int8", "int4")
