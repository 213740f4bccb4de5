/* Byte-level byte-pair encoding (BPE): from a prompt to 77 numbers, exactly as minisd/tokenizer.py does it. */

const START = "<|startoftext|>", END = "<|endoftext|>", END_OF_WORD = "</w>";
const CONTEXT_LENGTH = 77;
// White space as Unicode defines it; JavaScript's \s also takes the byte-order mark, and leaves out U+0085.
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = new RegExp(
  `<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^${SPACE}\\p{L}\\p{N}]+`, "gu");

/** A printable character for each of the 256 bytes: those that print as Latin-1 themselves, then U+0100 and on. */
function byteSymbols() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte !== 173);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++));
}

const SYMBOL_OF_BYTE = byteSymbols();

/** Compose characters (NFC), collapse white space, lower the case, one character at a time. */
function clean(text) {
  const collapsed = text.normalize("NFC").replace(new RegExp(`[${SPACE}]+`, "gu"), " ");
  return Array.from(collapsed, (character) => character.toLowerCase()).join("");
}

/** "It's  2 cats" → it, 's, 2, cats. A literal end token becomes <|, endoftext, |>. */
function splitWords(text) {
  return (clean(text).match(WORD) ?? []).flatMap((word) =>
    word === START || word === END ? [word.slice(0, 2), word.slice(2, -2), word.slice(-2)] : [word]);
}

/** A word → the symbols of its UTF-8 bytes, the last one marked as the end of a word: "cat" → c, a, t</w>. */
function toSymbols(word) {
  const symbols = Array.from(new TextEncoder().encode(word), (byte) => SYMBOL_OF_BYTE[byte]);
  symbols[symbols.length - 1] += END_OF_WORD;
  return symbols;
}

export class Tokenizer {
  /** @param {Object<string, number>} vocab token → id
      @param {string[]} merges "a b", in the order in which they were learnt
      @param {string} padToken what fills the positions after the end token */
  constructor(vocab, merges, padToken = END) {
    this.vocab = new Map(Object.entries(vocab));
    this.rank = new Map(merges.map((pair, i) => [pair, i]));
    this.startId = this.vocab.get(START);
    this.endId = this.vocab.get(END);
    this.padId = this.vocab.get(padToken);
    const special = [START, END, padToken].map((token) => token.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&"));
    this.special = new RegExp(`(${special.join("|")})`, "u");
    this.isSpecial = new Set([START, END, padToken]);
    this.cache = new Map();
  }

  /** Open a folder: vocab.json, merges.txt, special_tokens_map.json. `read` fetches a file of it. */
  static async load(read) {
    const [vocab, merges, special] = await Promise.all(
      ["vocab.json", "merges.txt", "special_tokens_map.json"].map((name) => read(name).then((file) => file.text())));
    const pad = JSON.parse(special).pad_token;
    const lines = merges.split("\n").filter((line) => line && !line.startsWith("#version"));
    return new Tokenizer(JSON.parse(vocab), lines, pad?.content ?? pad);
  }

  /** The tokens of a text, without start and end. */
  tokenize(text) {
    if (typeof text !== "string") throw new TypeError(`a prompt must be a string, not ${typeof text}`);
    if (/\p{Cs}/u.test(text)) throw new RangeError("the prompt contains an unpaired surrogate, which is not a character");
    return text.split(this.special).flatMap((part) =>
      this.isSpecial.has(part) ? [part] : splitWords(part).flatMap((word) => this.mergeWord(word)));
  }

  /** Apply the merges to one word, at each turn the earliest-learnt one that applies. */
  mergeWord(word) {
    if (this.cache.has(word)) return this.cache.get(word);
    let symbols = toSymbols(word);
    while (symbols.length > 1) {
      const ranks = symbols.slice(1).map((right, i) => this.rank.get(`${symbols[i]} ${right}`) ?? Infinity);
      const best = ranks.reduce((least, rank) => Math.min(least, rank), Infinity);
      if (best === Infinity) break;
      const merged = [];
      for (let i = 0; i < symbols.length; i++) {
        if (ranks[i] === best) {
          merged.push(symbols[i] + symbols[i + 1]);
          i++;
          ranks[i] = Infinity; // the symbol just used cannot begin another pair
        } else merged.push(symbols[i]);
      }
      symbols = merged;
    }
    this.cache.set(word, symbols);
    return symbols;
  }

  /** Ids of a text, without start, end and padding; a token not in the vocabulary becomes the end token. */
  encode(text) {
    return this.tokenize(text).map((token) => this.vocab.get(token) ?? this.endId);
  }

  /** 77 ids: start, the text's, end, padding; what does not fit is cut. */
  row(text) {
    const ids = [this.startId, ...this.encode(text).slice(0, CONTEXT_LENGTH - 2), this.endId];
    return [...ids, ...Array(CONTEXT_LENGTH - ids.length).fill(this.padId)];
  }
}
