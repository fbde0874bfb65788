"""vLLM as a timing worker. Run by the Python that has vLLM; imports nothing of this project.

First line on stdin: {"checkpoint", "dtype", "device", "threads", "max_model_len", "max_num_seqs", "dummy"};
answered by {"version"}. Each further line, {"prompts": [[token id]], "tokens": n}, is generated greedily to exactly n
tokens each and answered by {"seconds", "tokens": total}. Everything vLLM prints goes to stderr.
"""

import json
import os
import sys
import time


def main() -> None:
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    os.environ.update({"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"})
    if setup["device"] == "cpu":
        defaults = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{setup['threads'] - 1}",
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
        os.environ.update(defaults | os.environ)
    import vllm  # reads the environment on import

    engine = vllm.LLM(
        model=setup["checkpoint"],
        dtype=setup["dtype"],
        max_model_len=setup["max_model_len"],
        max_num_seqs=setup["max_num_seqs"],
        load_format="dummy" if setup["dummy"] else "auto",
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        seed=0,
    )
    print(json.dumps({"version": f"vllm {vllm.__version__}"}), file=answers)
    for line in sys.stdin:
        job = json.loads(line)
        params = vllm.SamplingParams(temperature=0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False)
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        start = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        answer = {"seconds": time.perf_counter() - start, "tokens": sum(len(o.outputs[0].token_ids) for o in outputs)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
