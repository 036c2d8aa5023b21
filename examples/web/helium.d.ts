/** Types of helium.mjs. `Ort` is the module onnxruntime-web, of which any build will do. */

type Ort = typeof import('onnxruntime-web');

export type Provider = 'webgpu' | 'wasm';

/** What docs/bundle.md describes; only the fields that the module reads. */
export interface Manifest {
  name: string;
  schema: string;
  schema_version: string;
  runtime: string;
  prefill_len: number;
  cache_len: number;
  tokens: { bos: number | null; eos: number[]; forbidden?: number[] };
  files: { path: string; bytes: number; sha256: string }[];
  golden: { prompt: string; prompt_ids: number[]; greedy_ids: number[]; margins: number[]; tolerances: { same: number; other: number } } | null;
  [field: string]: unknown;
}

export interface OpenOptions {
  /** Default: `wasm`. */
  provider?: Provider;
  /** Take the graphs of phase prefill and decode where there is one of phase any. */
  isStatic?: boolean;
  /** Bytes that have been fetched, and of how many. */
  onProgress?: (done: number, total: number) => void;
}

export interface GenerateOptions {
  /** Default: 64. */
  maxNewTokens?: number;
  /** Ends the generation before the next token. */
  signal?: AbortSignal;
  /** Chooses a token from the logits of the vocabulary; default: the best one. */
  pick?: (logits: Float32Array) => number;
}

export interface SelfTest {
  /** Tokenizer and first logits fit, and no step is wrong. */
  passed: boolean;
  steps: number;
  same: number;
  /** Steps with another token, where the recorded margin is within the tolerance. */
  nearTies: number[];
  /** Steps with another token, where it is not. */
  wrong: number[];
  /** Largest difference of the first logits from the recorded ones. */
  firstLogits: number;
  /** Whether the ids of the prompt are the recorded ones. */
  tokenizer: boolean;
}

export class Model {
  /**
   * Fetch a bundle and load its graphs.
   * @throws Error A file is missing or damaged, the bundle is for another host, or the runtime lacks an operator.
   */
  static open(ort: Ort, url: string, options?: OpenOptions): Promise<Model>;
  readonly manifest: Manifest;
  readonly provider: Provider;
  readonly tokenizer: Tokenizer;
  /** Tokens in the cache. */
  readonly position: number;
  /** Start a new conversation. */
  reset(): void;
  /**
   * Append a prompt; logits of its last token.
   * @throws RangeError It does not fit in the cache.
   */
  prefill(ids: number[]): Promise<Float32Array>;
  /**
   * Append one token; its logits.
   * @throws RangeError The cache is full.
   */
  decode(id: number): Promise<Float32Array>;
  /** A new conversation: tokens as they come, each with the text that is whole by then; the last has no id. */
  generate(prompt: string, options?: GenerateOptions): AsyncGenerator<{ id: number | null; text: string }>;
  /** Compare with the run that the bundle recorded. */
  selfTest(onStep?: (step: number, steps: number) => void): Promise<SelfTest>;
  /** Give the memory back. */
  release(): Promise<void>;
}

/** Of tokenizer.mjs. */
export class Tokenizer {
  /**
   * @param file The parsed tokenizer.json.
   * @throws Error It has a part that is not known here.
   */
  constructor(file: unknown);
  encode(text: string, options?: { special?: boolean }): number[];
  decode(ids: number[]): string;
  pieces(ids: number[]): string[];
  stream(): { push(id: number): string; end(): string };
}

/** `webgpu` where the browser has an adapter. */
export function bestProvider(): Promise<Provider>;
/** Threads of wasm that the page may have. */
export function bestThreads(): number;
/** Index of the first of the greatest. */
export function argmax(logits: Float32Array): number;
