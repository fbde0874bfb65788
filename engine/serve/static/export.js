// The same requests for a shell and for Python, the run as JSON, and a link to these settings.

import { base } from "./stream.js";

const STANDARD = ["messages", "temperature", "seed", "max_tokens"]; // the OpenAI client's own arguments

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(bodies, keyed) {
  const key = keyed ? `  -H "Authorization: Bearer $API_KEY" \\\n` : "";
  const one = (body) =>
    `curl -N ${shell(new URL("v1/chat/completions", base).href)} \\\n  -H 'Content-Type: application/json' \\\n${key}` +
    `  -d ${shell(JSON.stringify({ ...body, stream: true }, null, 2))}\n`;
  return bodies.map(one).join("\n");
}

/** A JSON value as a Python literal. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  return `{${Object.entries(value).map(([key, item]) => `${literal(key)}: ${literal(item)}`).join(", ")}}`;
}

function python(bodies, model, keyed) {
  const entries = Object.entries(bodies[0]);
  const budgets = bodies.map((body) => body.thinking_token_budget);
  const thinks = budgets[0] !== undefined;
  const key = keyed ? 'os.environ["API_KEY"]' : '"none"';
  const indent = thinks ? "    " : "";
  const extra = entries.filter(([key]) => !STANDARD.includes(key) && key !== "thinking_token_budget");
  const fields = [
    ...(thinks ? ['"thinking_token_budget": budget'] : []),
    ...extra.map(([key, value]) => `"${key}": ${literal(value)}`),
  ];
  const call = [
    "answer = client.chat.completions.create(",
    `    model=${literal(model)},`,
    ...entries.filter(([key]) => STANDARD.includes(key)).map(([key, value]) => `    ${key}=${literal(value)},`),
    ...(fields.length ? ["    extra_body={", ...fields.map((field) => `        ${field},`), "    },"] : []),
    ")",
    "message = answer.choices[0].message",
    ...(thinks ? ["print(message.reasoning)"] : []),
    "print(message.content)",
  ];
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(new URL("v1", base).href)}, api_key=${key})`,
    ...(thinks ? [`for budget in ${literal(budgets)}:`] : []),
    ...call.map((line) => indent + line),
    "",
  ].join("\n");
}

/** Title, text and file name of an export; `run` is null before the first one. */
export function exported(kind, { bodies, model, fragment, run }) {
  const link = `${base.href}#${fragment}`;
  const keyed = sessionStorage.getItem("key") !== null;
  return {
    curl: () => ["curl", curl(bodies, keyed), "request.sh"],
    python: () => ["Python", python(bodies, model, keyed), "request.py"],
    json: () => ["JSON of the run", JSON.stringify(run, null, 1), "run.json"],
    link: () => ["Link to these settings; with &run=1 it runs by itself", link, "link.txt"],
  }[kind]();
}

export function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
