"""Where models live: one interface (base), and one module per place (local; vllm, fsdp and ray are extras)."""
