// The tokenizer of a bundle: tokenizer.json with a Unigram model and byte fallback, as Helium has it.
//
// Ids and text are those of the Hugging Face tokenizers library, which tests compare it with. Every part of the file
// that is not known here is refused by name: another tokenizer is never silently taken for this one.

const SPACE = '▁';

export class Tokenizer {
  #added; #tokens; #ids; #scores; #unknown; #unknownScore; #byteFallback; #longest;
  #normalize; #split; #prefix; #decoders;

  // `file` is the parsed tokenizer.json.
  constructor(file) {
    const model = file.model;
    if (model.type !== 'Unigram') refuse('model', model.type);
    this.#tokens = model.vocab.map(([piece]) => piece);
    this.#ids = new Map(model.vocab.map(([piece], id) => [piece, id]));
    this.#scores = model.vocab.map(([, score]) => score);
    this.#unknown = model.unk_id;
    this.#unknownScore = this.#scores.reduce((least, score) => Math.min(least, score), Infinity) - 10;
    this.#byteFallback = model.byte_fallback === true;
    this.#longest = this.#tokens.reduce((longest, piece) => Math.max(longest, piece.length), 0);
    this.#normalize = normalizer(file.normalizer);
    const shown = ({ content, normalized }) => (normalized ? this.#normalize(content) : content);
    this.#added = (file.added_tokens ?? []).map((token) => ({ ...token, text: shown(token) }));
    for (const token of this.#added) this.#tokens[token.id] = token.text;
    this.#split = splitter(file.pre_tokenizer);
    this.#prefix = template(file.post_processor);
    this.#decoders = decoders(file.decoder);
  }

  // Ids of a text, with what the file puts around it (the BOS) unless `special` is false.
  encode(text, { special = true } = {}) {
    const ids = special ? [...this.#prefix] : [];
    for (const part of cut(text, this.#added.filter((token) => !token.normalized))) {
      if (part.id !== undefined) { ids.push(part.id); continue; }
      const normalized = this.#normalize(part.text);
      for (const piece of cut(normalized, this.#added.filter((token) => token.normalized))) {
        if (piece.id !== undefined) ids.push(piece.id);
        else for (const word of this.#split(piece.text)) this.#encodeWord(word, ids);
      }
    }
    return ids;
  }

  // Text of ids; special tokens are left out.
  decode(ids) {
    return this.#decoders.reduce((pieces, step) => step(pieces), this.pieces(ids)).join('');
  }

  // The token of each id, special ones left out.
  pieces(ids) {
    const hidden = new Set(this.#added.filter((token) => token.special).map((token) => token.id));
    return ids.filter((id) => !hidden.has(id) && this.#tokens[id] !== undefined).map((id) => this.#tokens[id]);
  }

  // Text as its tokens come, for an answer that goes on after other text: push(id) gives what is whole by now.
  stream() {
    let bytes = [];
    const flush = () => { const text = bytesToText(bytes); bytes = []; return text; };
    return {
      push: (id) => {
        const [piece] = this.pieces([id]);
        if (piece === undefined) return '';
        const byte = byteOf(piece);
        if (byte === undefined) return flush() + piece.replaceAll(SPACE, ' ');
        bytes.push(byte);
        return isWhole(bytes) ? flush() : '';
      },
      end: flush,
    };
  }

  // The best path by Viterbi: the greatest sum of scores; unknown characters cost more than any piece.
  #encodeWord(word, ids) {
    const best = new Float64Array(word.length + 1).fill(-Infinity);
    const from = new Int32Array(word.length + 1).fill(-1);
    best[0] = 0;
    const known = new Uint8Array(word.length + 1);
    for (let start = 0; start < word.length;) {
      const width = word.codePointAt(start) > 0xffff ? 2 : 1;
      let single = false;
      for (let end = start + width; end <= word.length && end - start <= this.#longest; end++) {
        const id = this.#ids.get(word.slice(start, end));
        if (id === undefined) continue;
        single ||= end === start + width;
        const score = best[start] + this.#scores[id];
        if (from[end] < 0 || score > best[end]) { best[end] = score; from[end] = start; known[end] = +(id !== this.#unknown); }
      }
      const end = start + width, score = best[start] + this.#unknownScore;
      if (!single && (from[end] < 0 || score > best[end])) { best[end] = score; from[end] = start; known[end] = 0; }
      start = end;
    }
    const pieces = [];
    for (let end = word.length, run = -1; end > 0; end = from[end]) {
      // Unknown characters beside each other are one piece.
      if (known[end]) { pieces.push(word.slice(from[end], end)); run = -1; }
      else if (run < 0) { run = pieces.push(word.slice(from[end], end)) - 1; }
      else pieces[run] = word.slice(from[end], end) + pieces[run];
    }
    for (const piece of pieces.reverse()) ids.push(...this.#idsOf(piece));
  }

  #idsOf(piece) {
    const id = this.#ids.get(piece);
    if (id !== undefined) return [id];
    const bytes = [...new TextEncoder().encode(piece)].map((byte) => this.#ids.get(byteToken(byte)));
    return this.#byteFallback && !bytes.includes(undefined) ? bytes : [this.#unknown];
  }
}

function refuse(part, kind) {
  throw new Error(`tokenizer.json: ${part} ${JSON.stringify(kind)} is not known here`);
}

function byteToken(byte) {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
}

function byteOf(piece) {
  return /^<0x[0-9A-F]{2}>$/.test(piece) ? parseInt(piece.slice(3, 5), 16) : undefined;
}

// UTF-8; of bytes that are none, each becomes a replacement character.
function bytesToText(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return '\ufffd'.repeat(bytes.length);
  }
}

// Whether no character of UTF-8 is still incomplete at the end.
function isWhole(bytes) {
  const lead = bytes.findLastIndex((byte) => (byte & 0xc0) !== 0x80);
  if (lead < 0) return bytes.length > 3;
  const first = bytes[lead], need = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc0 ? 2 : 1;
  return bytes.length - lead >= need;
}

const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const BLANK = /\p{White_Space}/u;

// Parts of a text: the leftmost and longest added tokens, with their ids, and what lies between them.
function cut(text, tokens) {
  if (!tokens.length) return text ? [{ text }] : [];
  const longestFirst = [...tokens].sort((one, other) => other.text.length - one.text.length);
  const parts = [];
  let done = 0;
  for (let at = 0; at < text.length;) {
    const token = longestFirst.find((each) => text.startsWith(each.text, at));
    if (!token) { at++; continue; }
    let start = at, end = at + token.text.length;
    at = end;
    if (token.single_word) {
      const before = [...text.slice(Math.max(0, start - 2), start)].at(-1), after = [...text.slice(end, end + 2)][0];
      if ((before && WORD.test(before)) || (after && WORD.test(after))) continue;
    }
    // Blanks that one token takes may hold another: the search goes on behind the token itself.
    if (token.lstrip) while (start > done && BLANK.test(text[start - 1])) start--;
    if (token.rstrip) while (end < text.length && BLANK.test(text[end])) end++;
    if (start > done) parts.push({ text: text.slice(done, start) });
    parts.push({ id: token.id });
    done = end;
  }
  if (done < text.length) parts.push({ text: text.slice(done) });
  return parts;
}

function literal(pattern, part) {
  return pattern?.String ?? refuse(part, pattern);
}

function normalizer(node) {
  if (!node) return (text) => text;
  if (node.type === 'Sequence') {
    const steps = node.normalizers.map(normalizer);
    return (text) => steps.reduce((found, step) => step(found), text);
  }
  if (node.type === 'Prepend') return (text) => (text ? node.prepend + text : text);
  if (node.type !== 'Replace') refuse('normalizer', node.type);
  const pattern = literal(node.pattern, 'normalizer');
  return (text) => text.replaceAll(pattern, () => node.content);
}

function splitter(node) {
  if (!node) return (text) => [text];
  if (node.type === 'Sequence') {
    const steps = node.pretokenizers.map(splitter);
    return (text) => steps.reduce((words, step) => words.flatMap(step), [text]);
  }
  if (node.type !== 'Split' || node.behavior !== 'Contiguous' || node.invert) refuse('pre_tokenizer', node.type);
  const pattern = literal(node.pattern, 'pre_tokenizer').replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const runs = new RegExp(`((?:${pattern})+)`);
  return (text) => text.split(runs).filter((word) => word);
}

// Ids in front of a text.
function template(node) {
  if (!node) return [];
  if (node.type !== 'TemplateProcessing') refuse('post_processor', node.type);
  const ids = node.single.map((piece) => (piece.SpecialToken ? node.special_tokens[piece.SpecialToken.id].ids : null));
  if (ids.indexOf(null) !== ids.length - 1) refuse('post_processor', 'a token behind the text');
  return ids.slice(0, -1).flat();
}

// Functions from pieces to pieces.
function decoders(node) {
  if (!node) return [];
  if (node.type === 'Sequence') return node.decoders.flatMap(decoders);
  if (node.type === 'Fuse') return [(pieces) => [pieces.join('')]];
  if (node.type === 'ByteFallback') return [joinBytes];
  if (node.type === 'Replace') {
    const pattern = literal(node.pattern, 'decoder');
    return [(pieces) => pieces.map((piece) => piece.replaceAll(pattern, () => node.content))];
  }
  if (node.type !== 'Strip' || node.stop) refuse('decoder', node.type);
  const strip = (piece) => {
    let at = 0;
    while (at < node.start && piece[at] === node.content) at++;
    return piece.slice(at);
  };
  return [(pieces) => pieces.map(strip)];
}

function joinBytes(pieces) {
  const found = [];
  let bytes = [];
  for (const piece of [...pieces, null]) {
    const byte = piece === null ? undefined : byteOf(piece);
    if (byte !== undefined) { bytes.push(byte); continue; }
    if (bytes.length) found.push(bytesToText(bytes));
    bytes = [];
    if (piece !== null) found.push(piece);
  }
  return found;
}
