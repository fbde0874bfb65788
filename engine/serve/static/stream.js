// The server over fetch: JSON calls, and server-sent events of a running answer.

export const base = new URL(".", document.baseURI);

/** What the server refused, or how a stream ended that should not have; `status` is 0 where there was no reply. */
export class ServerError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** A reply whose status is 2xx; anything else is thrown as a ServerError. */
export async function call(path, { body, ...options } = {}) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const json = body === undefined ? undefined : JSON.stringify(body);
  let reply;
  try {
    reply = await fetch(new URL(path, base), { ...options, headers, method: json ? "POST" : "GET", body: json });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => null);
  throw new ServerError(reply.status, said?.error?.message ?? reply.statusText, reply.headers.get("Retry-After"));
}

/** The `data` of each server-sent event in a stream of bytes. */
async function* events(bytes) {
  let rest = "";
  let data = [];
  for await (const text of pieces(bytes.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function* pieces(stream) {
  const reader = stream.getReader(); // Safari has no asynchronous iterator on streams
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The chunks of one streamed chat completion, up to [DONE]. */
export async function* chat(body, signal) {
  const reply = await call("v1/chat/completions", { body, signal });
  try {
    for await (const data of events(reply.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(200, chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
  }
  throw new ServerError(200, "The stream broke off before its end.");
}

/** One sentence for a person. */
export function explain(error) {
  const later = error.retryAfter ? `Try again in ${error.retryAfter} s.` : "Try again in a moment.";
  const dot = /[.!?]$/.test(error.message) ? "" : ".";
  if (error.status === 401) return "This server asks for an API key.";
  if (error.status === 429) return `The server is busy: ${error.message}${dot} ${later}`;
  if (error.status === 503) return `The server is not ready: ${error.message}${dot} ${later}`;
  return error.status ? `${error.message}${dot}` : error.message;
}
