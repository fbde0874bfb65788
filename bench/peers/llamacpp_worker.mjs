// llama.cpp as a timing worker, through the npm package node-llama-cpp; the protocol is that of bench/peers/worker.py.
// "checkpoint" is a GGUF file, whose type of weights is what is timed. NODE_LLAMA_CPP names the folder in which the
// package is installed. The prompts of a job are sequences of one context, which llama.cpp decodes in one batch.
import {createInterface} from "node:readline";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const require = createRequire(`${process.env.NODE_LLAMA_CPP ?? process.cwd()}/`);
const {getLlama, getModuleVersion} = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);

async function generate(sequence, prompt, tokens) {
    let written = 0;
    const options = {temperature: 0, yieldEogToken: true};
    for await (const _ of sequence.evaluate(prompt, options)) if (++written === tokens) break;
    return written;
}

async function start(setup) {
    const llama = await getLlama({gpu: false, build: "never", maxThreads: setup.threads, logLevel: "error"});
    const model = await llama.loadModel({modelPath: setup.checkpoint, useMmap: true});
    const context = await model.createContext({
        sequences: setup.max_num_seqs,
        contextSize: setup.max_model_len * setup.max_num_seqs,
        batchSize: 2048,
        threads: {ideal: setup.threads, min: setup.threads},
        batching: {dispatchSchedule: "nextCycle"}
    });
    const sequences = Array.from({length: setup.max_num_seqs}, () => context.getSequence());
    const version = await getModuleVersion();
    console.log(JSON.stringify({version: `node-llama-cpp ${version}, llama.cpp ${llama.llamaCppRelease?.release}`}));
    return sequences;
}

let sequences;
for await (const line of createInterface({input: process.stdin})) {
    const job = JSON.parse(line);
    if (sequences === undefined) {
        sequences = await start(job);
        continue;
    }
    for (const sequence of sequences) await sequence.clearHistory();
    const begin = performance.now();
    const counts = await Promise.all(job.prompts.map((ids, i) => generate(sequences[i], ids, job.tokens)));
    const seconds = (performance.now() - begin) / 1000;
    console.log(JSON.stringify({seconds, tokens: counts.reduce((a, b) => a + b, 0)}));
}
process.exit(0);
