// The loop of docs/bundle.md for browsers, over onnxruntime-web; a module without a bundler and without dependencies.
//
//     import * as ort from '.../onnxruntime-web/dist/ort.webgpu.min.mjs';
//     const model = await Model.open(ort, 'bundle/', { provider: await bestProvider() });
//     for await (const { text } of model.generate('The device', { signal })) show(text);
//
// What is different in a browser: graphs refer to weights.bin, which is fetched and handed over as externalData; and
// outputs are NOT written to memory that is bound to them. A present that is bound to its past stays unwritten, in
// silence. So the present that a call returns is the past of the next one.

import { Tokenizer } from './tokenizer.mjs';

// A float16 cache is made of zeros and never looked into: its bits will do.
const ARRAYS = {
  float32: Float32Array, float16: Uint16Array, int8: Int8Array, int32: Int32Array, int64: BigInt64Array,
};
const PAST = new Set(['past_key', 'past_value']), PRESENT = new Set(['present_key', 'present_value']);
const NEW = new Set(['new_key', 'new_value']);

// 'webgpu' where the browser has an adapter, else 'wasm'.
export async function bestProvider() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter().catch(() => null);
  return adapter ? 'webgpu' : 'wasm';
}

// Threads of wasm: more than one only where the page is isolated (COOP and COEP headers).
export function bestThreads() {
  return globalThis.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
}

export class Model {
  #ort; #graphs; #cache; #shape; #onGpu;

  // Fetch a bundle and load its graphs. `provider`: 'webgpu' or 'wasm'; `isStatic` takes the graphs of phase prefill
  // and decode where the one of phase any is the default; `onProgress(done, total)` counts bytes.
  static async open(ort, url, { provider = 'wasm', isStatic = false, onProgress = () => {} } = {}) {
    const base = new URL(url.endsWith('/') ? url : `${url}/`, globalThis.location?.href ?? 'file:///');
    const manifest = await (await get(new URL('helium-edge.json', base))).json();
    const [major] = manifest.schema_version.split('.');
    if (manifest.schema !== 'helium-edge/bundle' || major !== '1') throw new Error(`schema ${manifest.schema_version}`);
    if (manifest.runtime !== 'onnxruntime' || !manifest.cache) throw new Error(`${manifest.name}: not for this host`);
    const phases = Object.fromEntries(manifest.graphs.map((graph) => [graph.phase, graph]));
    const graphs = isStatic || !phases.any ? [phases.prefill, phases.decode] : [phases.any];
    const weights = manifest.files.filter((file) => file.path.endsWith('.bin')).map((file) => file.path);
    const wanted = [...new Set([manifest.tokenizer.file, ...graphs.map((graph) => graph.file), ...weights])];
    const files = await fetchAll(base, manifest.files.filter((file) => wanted.includes(file.path)), onProgress);

    const model = new Model();
    model.#ort = ort;
    model.manifest = manifest;
    model.provider = provider;
    model.tokenizer = new Tokenizer(JSON.parse(new TextDecoder().decode(files.get(manifest.tokenizer.file))));
    const options = {
      executionProviders: provider === 'wasm' ? ['wasm'] : [provider, 'wasm'],
      logSeverityLevel: 3,
      externalData: weights.map((path) => ({ path, data: files.get(path) })),
    };
    model.#onGpu = provider === 'webgpu' && manifest.cache.update === 'in_place';
    model.#graphs = [];
    for (const graph of graphs) {
      const stay = graph.outputs.filter((output) => PRESENT.has(output.role)).map((output) => [output.name, 'gpu-buffer']);
      const location = model.#onGpu ? { preferredOutputLocation: Object.fromEntries(stay) } : {};
      const session = await ort.InferenceSession.create(files.get(graph.file), { ...options, ...location });
      model.#graphs.push({ ...graph, session });
    }
    model.#shape = manifest.cache.shape;
    model.#newCache();
    return model;
  }

  // A new conversation. Slots at and after `position` have no effect, so that nothing is cleared.
  reset() { this.position = 0; }

  // Logits after a prompt, Float32Array of the vocabulary.
  async prefill(ids) {
    const { prefill_len: width, cache_len: slots } = this.manifest;
    if (!ids.length) throw new RangeError('a prompt has at least one token');
    if (this.position + ids.length > slots) throw new RangeError(`${ids.length} tokens do not fit: the cache has ${slots}`);
    let logits;
    for (let done = 0; done < ids.length;) {
      // A padded chunk must not pass the last slot.
      const fits = this.#graphs[0].tokens === null || this.position + width <= slots;
      const chunk = ids.slice(done, done + (fits ? width : 1));
      logits = await this.#call(chunk);
      done += chunk.length;
    }
    return logits;
  }

  // Logits after one more token.
  async decode(id) {
    if (this.position >= this.manifest.cache_len) throw new RangeError('the cache is full');
    return this.#call([id]);
  }

  // The best tokens after a prompt, as { id, text } with text as far as it is whole; `pick` chooses from logits.
  async* generate(prompt, { maxNewTokens = 64, signal, pick = argmax } = {}) {
    const { tokens, cache_len: slots } = this.manifest, stream = this.tokenizer.stream();
    const ids = this.tokenizer.encode(prompt);
    if (ids.some((id) => tokens.forbidden?.includes(id))) throw new RangeError('the text has a token that the model lacks');
    this.reset();
    let logits = await this.prefill(ids);
    for (let count = 0; count < maxNewTokens && !signal?.aborted; count++) {
      const id = pick(logits);
      if (tokens.eos.includes(id)) break;
      yield { id, text: stream.push(id) };
      if (this.position === slots || count + 1 === maxNewTokens) break;
      await new Promise((resolve) => { setTimeout(resolve); }); // the page draws, and Stop is heard
      if (!signal?.aborted) logits = await this.decode(id);
    }
    yield { id: null, text: stream.end() };
  }

  // Ids, first logits and every greedy step against the recorded run. A step with another token is a near tie where the
  // recorded margin is within the tolerance, and wrong elsewhere. Kernels of wasm do not round activations and those of
  // WebGPU do it in other blocks than the recorded ones.
  async selfTest(onStep = () => {}) {
    const { prompt, prompt_ids: promptIds, greedy_ids: ids, margins, top5_first: top, tolerances } = this.manifest.golden;
    const tokenizer = String(this.tokenizer.encode(prompt)) === String(promptIds);
    this.reset();
    let logits = await this.prefill(promptIds);
    const firstLogits = Math.max(...top.map(({ id, logit }) => Math.abs(logits[id] - logit)));
    const nearTies = [], wrong = [];
    for (let step = 0; step < ids.length; step++) {
      const found = argmax(logits);
      if (found !== ids[step]) (margins[step] <= tolerances.other ? nearTies : wrong).push(step);
      onStep(step + 1, ids.length);
      // The recorded token is fed back, so that a near tie does not end the comparison.
      if (step + 1 < ids.length) logits = await this.decode(ids[step]);
    }
    this.reset();
    const same = ids.length - nearTies.length - wrong.length;
    const passed = tokenizer && !wrong.length && firstLogits <= tolerances.other;
    return { passed, steps: ids.length, same, nearTies, wrong, firstLogits, tokenizer };
  }

  async release() {
    for (const tensor of this.#cache) tensor.dispose();
    for (const { session } of this.#graphs) await session.release();
  }

  #newCache() {
    const { dtype, layers } = this.manifest.cache;
    this.#cache = Array.from({ length: 2 * layers }, () => this.#tensor(dtype, this.#shape)); // zeros
    this.position = 0;
  }

  #tensor(dtype, shape, values = []) {
    if (!(dtype in ARRAYS)) throw new Error(`the type ${dtype} is not known to this host`);
    const data = new ARRAYS[dtype](shape.reduce((product, size) => product * size, 1));
    values.forEach((value, i) => { data[i] = dtype === 'int64' ? BigInt(value) : value; });
    return new this.#ort.Tensor(dtype, data, shape);
  }

  async #call(ids) {
    const graph = this.#graphs.at(ids.length > 1 ? 0 : -1);
    const width = graph.tokens ?? ids.length;
    const padded = ids.concat(Array(width - ids.length).fill(ids.at(-1)));
    const given = { tokens: padded, past_length: [this.position], last_index: [ids.length - 1] };
    const feeds = {};
    let past = 0;
    for (const { name, role, dtype, shape } of graph.inputs) {
      const sizes = shape.map((size) => (typeof size === 'string' ? width : size));
      feeds[name] = PAST.has(role) ? this.#cache[past++] : this.#tensor(dtype, sizes, given[role]);
    }
    const results = await graph.session.run(feeds); // no fetches: nothing is bound
    const named = (roles) => graph.outputs.filter(({ role }) => roles.has(role)).map(({ name }) => results[name]);
    const present = named(PRESENT);
    if (present.length) {
      for (const tensor of this.#cache) if (tensor.location === 'gpu-buffer') tensor.dispose();
      this.#cache = present;
    } else {
      named(NEW).forEach((rows, i) => this.#append(i, rows, ids.length));
    }
    this.position += ids.length;
    const { data, dims: [, rows, vocabulary] } = results[graph.outputs.find(({ role }) => role === 'logits').name];
    const row = rows === 1 ? 0 : ids.length - 1; // all rows with `logits: all`
    return data.subarray(row * vocabulary, (row + 1) * vocabulary);
  }

  // The first `real` rows of (Hkv, T, D) to the slots from `position` on; rows of padding are left out.
  #append(index, { data, dims: [heads, rows, dim] }, real) {
    const slots = this.#shape.at(-2), cache = this.#cache[index].data;
    for (let head = 0; head < heads; head++) {
      const from = head * rows * dim;
      cache.set(data.subarray(from, from + real * dim), (head * slots + this.position) * dim);
    }
  }
}

// The first of the greatest.
export function argmax(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: HTTP ${response.status}`);
  return response;
}

// Bytes by path, each compared with the manifest's sha256, since a copy that was cut off gives no error later.
async function fetchAll(base, entries, onProgress) {
  const total = entries.reduce((sum, entry) => sum + entry.bytes, 0), files = new Map();
  let done = 0;
  for (const { path, bytes, sha256 } of entries) {
    const data = new Uint8Array(bytes), reader = (await get(new URL(path, base))).body.getReader();
    let at = 0;
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      if (at + read.value.length > bytes) throw new Error(`${path}: longer than the manifest says`);
      data.set(read.value, at);
      at += read.value.length;
      onProgress(done += read.value.length, total);
    }
    const subtle = globalThis.crypto?.subtle; // absent where a page is neither of https nor of localhost
    const digest = subtle && [...new Uint8Array(await subtle.digest('SHA-256', data))];
    const found = digest?.map((byte) => byte.toString(16).padStart(2, '0')).join('');
    if (at !== bytes || (found && found !== sha256)) throw new Error(`${path}: damaged; copy the bundle again`);
    files.set(path, data);
  }
  return files;
}
