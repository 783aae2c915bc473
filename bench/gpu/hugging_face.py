"""Plain decoding by Hugging Face's `generate` in PyTorch, of a GPT-2 with random weights: what `main.ts` compares with.

Takes one argument, JSON: device, layers, width, heads, context, vocabSize, prompt, text. Prints lines of JSON, after each
text: tokens per second of the best so far by the wall's clock, the prompt's pass not counted, and versions; or the problem.
"""

import json
import sys
import time


def tell(what):
    print(json.dumps(what), flush=True)


def main(asked):
    try:
        import torch
        import transformers
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        return tell({"problem": str(error)})
    if asked["device"] == "cuda" and not torch.cuda.is_available():
        return tell({"problem": "PyTorch sees no GPU"})

    config = GPT2Config(
        vocab_size=asked["vocabSize"],
        n_positions=asked["context"],
        n_layer=asked["layers"],
        n_embd=asked["width"],
        n_head=asked["heads"],
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.set_default_dtype(torch.float16 if asked["device"] == "cuda" else torch.float32)
    with torch.device(asked["device"]):
        model = GPT2LMHeadModel(config).eval()
        prompt = torch.arange(asked["prompt"])[None] * 761 % asked["vocabSize"]

    def seconds(new):
        synchronize = torch.cuda.synchronize if asked["device"] == "cuda" else lambda: None
        synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
            )
        synchronize()
        assert out.shape[1] == asked["prompt"] + new
        return time.perf_counter() - began

    seconds(8)
    first = seconds(1)
    best = float("inf")
    for text in range(2):
        best = min(best, seconds(asked["text"]))
        tell(
            {
                "tokensPerSecond": (asked["text"] - 1) / (best - first),
                "texts": text + 1,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )


main(json.loads(sys.argv[1]))
