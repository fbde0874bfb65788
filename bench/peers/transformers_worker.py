"""transformers as a timing worker; imports nothing of this project, the protocol is that of `bench.peers.worker`.

On the CPU `generate` with its dynamic cache, on CUDA with the static cache, which transformers compiles.
"""

import json
import os
import sys
import time

import torch
import transformers


def main() -> None:
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    transformers.logging.set_verbosity_error()
    dtype = getattr(torch, setup["dtype"])
    if setup["dummy"]:
        with torch.device(setup["device"]):
            model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.from_pretrained(setup["checkpoint"]), dtype=dtype
            )
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(setup["checkpoint"], dtype=dtype)
    model = model.to(setup["device"]).eval()
    model.generation_config.eos_token_id = None
    cache = {"cache_implementation": "static"} if setup["device"].startswith("cuda") else {}
    print(json.dumps({"version": f"transformers {transformers.__version__}"}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        ids = torch.tensor(job["prompts"], device=setup["device"])
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                pad_token_id=0,
                min_new_tokens=job["tokens"],
                max_new_tokens=job["tokens"],
                **cache,
            )
        if setup["device"].startswith("cuda"):
            torch.cuda.synchronize()
        print(
            json.dumps({"seconds": time.perf_counter() - start, "tokens": out[:, ids.shape[1] :].numel()}),
            file=answers,
        )


if __name__ == "__main__":
    main()
