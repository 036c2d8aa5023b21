// A bundle for ONNX Runtime in Node, run from its manifest alone, and compared with its golden trace.
//
//     npm install onnxruntime-node
//     node examples/hosts/onnxruntime_node_host.mjs BUNDLE [--static]
//
// docs/bundle.md is the contract. Each present is bound to its past, as onnxruntime-web must not (examples/web).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
process.env.ORT_DISABLE_TELEMETRY ??= '1'; // before it is loaded, or it reports to its maker
const { default: ort } = await import('onnxruntime-node');

const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array, int32: Int32Array, int64: BigInt64Array };

const tensor = (dtype, shape, values = []) => {
  if (!(dtype in ARRAYS)) process.exit(console.error(`the type ${dtype} is not known to this host`) ?? 1);
  const data = new ARRAYS[dtype](shape.reduce((product, n) => product * n, 1));
  values.forEach((value, i) => { data[i] = dtype === 'int64' ? BigInt(value) : value; });
  return new ort.Tensor(dtype, data, shape);
};

class Host {
  static async open(folder, manifest, isStatic) {
    const host = new Host();
    const phases = Object.fromEntries(manifest.graphs.map((graph) => [graph.phase, graph]));
    const chosen = isStatic || !phases.any ? [phases.prefill, phases.decode] : [phases.any];
    host.graphs = await Promise.all(chosen.map(async (graph) =>
      [graph, await ort.InferenceSession.create(join(folder, graph.file))]));
    const { dtype, shape, layers } = manifest.cache;
    host.cache = Array.from({ length: 2 * layers }, () => tensor(dtype, shape));
    [host.slots, host.dim, host.length] = [...shape.slice(-2), 0];
    return host;
  }

  // Logits of the last of at most prefill_len tokens; their rows go to slots `length` and up.
  async call(ids) {
    const [graph, session] = this.graphs.at(ids.length > 1 ? 0 : -1);
    const width = graph.tokens ?? ids.length;
    const padded = ids.concat(Array(width - ids.length).fill(ids.at(-1)));
    const given = { tokens: padded, past_length: [this.length], last_index: [ids.length - 1] };
    let [past, present, feeds, fetches, appended] = [0, 0, {}, {}, []];
    const sized = (entry) => entry.shape.map((n) => (typeof n === 'string' ? width : n));
    for (const entry of graph.inputs) {
      const value = given[entry.role];
      feeds[entry.name] = value ? tensor(entry.dtype, sized(entry), value) : this.cache[past++];
    }
    for (const entry of graph.outputs) {
      fetches[entry.name] = entry.role.startsWith('present') ? this.cache[present++] : null;
      if (entry.role.startsWith('new')) appended.push(entry.name);
    }
    const results = await session.run(feeds, fetches);
    appended.forEach((name, i) => { // append: the real rows go to their slots, those of padding do not
      const { data, dims: [heads, rows] } = results[name];
      for (let h = 0; h < heads; h++) {
        const real = data.subarray(h * rows * this.dim, (h * rows + ids.length) * this.dim);
        this.cache[i].data.set(real, (h * this.slots + this.length) * this.dim);
      }
    });
    this.length += ids.length;
    const { data, dims: [, rows, vocabulary] } = results.logits;
    const row = rows === 1 ? 0 : ids.length - 1;
    return data.subarray(row * vocabulary, (row + 1) * vocabulary);
  }
}

const [folder, ...flags] = process.argv.slice(2);
const manifest = JSON.parse(readFileSync(join(folder, 'helium-edge.json'), 'utf8'));
const { prompt_ids: prompt, greedy_ids: ids, margins, top5_first: top, tolerances } = manifest.golden;
const host = await Host.open(folder, manifest, flags.includes('--static'));
let logits = await host.call(prompt); // longer ones in chunks of prefill_len
const off = Math.max(...top.map(({ id, logit }) => Math.abs(logits[id] - logit)));
const other = [];
for (let step = 0; step < ids.length; step++) {
  if (logits.reduce((best, value, i) => (value > logits[best] ? i : best), 0) !== ids[step]) other.push(step);
  logits = await host.call([ids[step]]); // the recorded one, also after a near tie
}
const ties = other.filter((step) => margins[step] <= tolerances.other);
console.log(`${ids.length - other.length} of ${ids.length} golden ids, near ties at [${ties}], first logits ${off.toExponential(1)} off`);
process.exit(ties.length === other.length && off <= tolerances.other ? 0 : 1);
