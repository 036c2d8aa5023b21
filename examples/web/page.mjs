// The page around helium.mjs. Where things lie can be said in its address:
//
//     ?bundle=bundle/&ort=ort/            the bundle, and the folder dist of onnxruntime-web
//     &provider=wasm|webgpu&threads=2     what runs it; by default what this browser has
//     &build=ort.all.min.mjs&static=1     another build; the graphs of static shape

import { bestProvider, bestThreads, Model } from './helium.mjs';

const asked = new URLSearchParams(location.search);
const part = (id) => document.getElementById(id);
const fixed = (text) => text.replaceAll(' ', '\u00a0'); // a number stays beside its unit
const bytes = (count) => fixed(count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : `${(count / 1e6).toFixed(1)} MB`);
const controls = ['prompt', 'count', 'generate', 'test'].map(part);
let model, stopping;

function say(text, kind = '') {
  part('status').textContent = text;
  part('status').className = kind;
}

function working(isWorking) {
  for (const control of controls) control.disabled = isWorking;
  part('stop').disabled = !isWorking;
  part('answer').setAttribute('aria-busy', String(isWorking));
  // Screen readers are told how it ended, not every token.
  part('status').setAttribute('aria-live', isWorking ? 'off' : 'polite');
}

async function start() {
  const provider = asked.get('provider') ?? await bestProvider();
  const build = asked.get('build') ?? (provider === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs');
  const folder = new URL(asked.get('ort') ?? 'ort/', location.href);
  say('Loading the runtime');
  const ort = await import(new URL(build, folder));
  const threads = Number(asked.get('threads') ?? bestThreads());
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = folder.href;
  const begun = performance.now();
  model = await Model.open(ort, new URL(asked.get('bundle') ?? 'bundle/', location.href).href, {
    provider,
    isStatic: asked.has('static'),
    onProgress(done, total) {
      part('progress').value = done / total;
      say(done < total ? `Fetching ${bytes(done)} of ${bytes(total)}` : 'Loading the graphs');
    },
  });
  const { manifest } = model, count = fixed(`${threads} thread${threads === 1 ? '' : 's'}`);
  part('model').textContent = manifest.name;
  part('provider').textContent = provider === 'webgpu' ? 'WebGPU' : `WebAssembly, ${count}`;
  part('weights').textContent = bytes(manifest.quantization.weights_bytes);
  part('cache').textContent = `${fixed(`${manifest.cache_len} tokens`)}, ${bytes(manifest.cache.total_bytes)}`;
  part('facts').hidden = false;
  part('progress').hidden = true;
  part('prompt').value = manifest.golden?.prompt ?? '';
  say(`Ready after ${((performance.now() - begun) / 1000).toFixed(1)} s`);
  working(false);
  part('test').disabled = !manifest.golden;
}

// `work` says how it ended.
async function run(work) {
  working(true);
  stopping = new AbortController();
  const [text, kind] = await work(stopping.signal).then((end) => [end, ''], (error) => [error.message, 'bad']);
  working(false);
  say(text, kind);
}

part('form').addEventListener('submit', (event) => {
  event.preventDefault();
  run(async (signal) => {
    const prompt = part('prompt').value, maxNewTokens = part('count').valueAsNumber || 48;
    const given = Object.assign(document.createElement('span'), { className: 'given', textContent: prompt });
    const answer = document.createTextNode('');
    part('answer').replaceChildren(given, answer);
    say('Reading the prompt');
    let count = 0, begun = 0;
    for await (const { id, text } of model.generate(prompt, { maxNewTokens, signal })) {
      answer.appendData(text);
      if (id === null) break;
      begun ||= performance.now(); // the first token is the prompt's
      count += 1;
      say(`Writing, ${count} of ${maxNewTokens} tokens`);
      if (count > 1) part('speed').textContent = `${((count - 1) / (performance.now() - begun) * 1e3).toFixed(1)} tokens/s`;
    }
    return `${signal.aborted ? 'Stopped' : 'Done'} after ${count} tokens`;
  });
});

part('stop').addEventListener('click', () => stopping?.abort());

part('test').addEventListener('click', () => run(async () => {
  say('Self-test');
  const result = await model.selfTest((step, steps) => say(`Self-test, step ${step} of ${steps}`));
  const marks = Array.from({ length: result.steps }, (_, step) => {
    const [className, mark, what] = result.wrong.includes(step) ? ['bad', '✗', 'wrong']
      : result.nearTies.includes(step) ? ['tie', '≈', 'near tie'] : ['good', '✓', 'same token'];
    return Object.assign(document.createElement('li'), { className, textContent: mark, title: `Step ${step}: ${what}` });
  });
  part('steps').replaceChildren(...marks);
  part('steps').hidden = false;
  const ties = result.nearTies.length ? `, ${result.nearTies.length} near tie${result.nearTies.length > 1 ? 's' : ''}` : '';
  const ids = result.tokenizer ? '' : '; the tokenizer makes other ids';
  const verdict = `${result.passed ? 'Passed' : 'Failed'}: ${result.same} of ${result.steps} tokens are the recorded ones${ties}`;
  part('verdict').textContent = `${verdict}; first logits differ by ${result.firstLogits.toPrecision(2)}${ids}.`;
  part('verdict').className = result.passed ? 'good' : 'bad';
  document.documentElement.dataset.result = JSON.stringify(result);
  return 'Ready';
}));

working(true);
part('stop').disabled = true;
start().catch((error) => say(`Cannot start: ${error.message}`, 'bad'));
