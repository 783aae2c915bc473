/**
 * Text to tokens and back: exact, for every input, and the same text when it streams.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { loadEngine } from "../mod.ts";
import { decodeTokens, encodeText, loadTokenizer, TextStream, type Tokenizer } from "../src/hub/tokenizer.ts";
import { CheckpointError } from "../src/model/weights.ts";

const pair = new URL("../fixtures/pair/", import.meta.url);
const tokenizer = await loadTokenizer(pair);
const VOCABULARY = 2048;

/** What a stream of the ids gives, piece by piece, the flush last. */
function streamed(ids: readonly number[], tokenizer: Tokenizer): string[] {
  const stream = new TextStream(tokenizer);
  return [...ids.map((id) => stream.push(id)), stream.flush()];
}

/** Reproducible integers below n. */
function integers(seed: number): (n: number) => number {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor(seed / 2 ** 32 * n);
  };
}

// Ids from the Rust library (tokenizers, Python) for the same file.
const KNOWN: [string, number[]][] = [
  ["It was a dark and stormy night;", [829, 313, 259, 1270, 282, 348, 287, 77, 89, 836, 27]],
  [
    'Hello , world .  Don\'t\n\n"stop"<|endoftext|>Chapter 1',
    // deno-fmt-ignore
    [40, 498, 79, 221, 12, 1160, 221, 14, 221, 477, 280, 455, 199, 199, 2, 318, 610, 2, 0, 35, 1012, 360, 221, 17],
  ],
  [
    "naïve 😀 € ﷽ 漢字",
    // deno-fmt-ignore
    [924, 128, 108, 314, 221, 173, 254, 247, 223, 221, 159, 225, 106, 221, 172, 116, 122, 221, 163, 121, 96, 162, 256, 246],
  ],
  [" \t\u00a0x\r\n", [221, 198, 127, 255, 88, 202, 199]],
];

Deno.test("tokenizer: the ids of the reference implementation, and the very text back", () => {
  for (const [text, ids] of KNOWN) {
    assert.deepEqual(encodeText(tokenizer, text), ids);
    assert.equal(decodeTokens(tokenizer, ids), text);
    assert.equal(decodeTokens(tokenizer, Int32Array.from(ids)), text);
    assert.equal(streamed(ids, tokenizer).join(""), text);
  }
});

Deno.test("tokenizer: the edges", () => {
  assert.deepEqual(encodeText(tokenizer, ""), []);
  assert.equal(decodeTokens(tokenizer, []), "");
  assert.deepEqual(encodeText(tokenizer, "<|endoftext|>"), [0]);
  assert.equal(decodeTokens(tokenizer, [0]), "<|endoftext|>");
  // lone surrogates become U+FFFD, as TextEncoder has it, and pairs stay
  assert.equal(decodeTokens(tokenizer, encodeText(tokenizer, "a\ud800b\udc00😀")), "a\ufffdb\ufffd😀");
  const letters = { encode: (text: string) => Array.from(text, (c) => c.codePointAt(0)!), decode: () => "" };
  assert.deepEqual(encodeText(letters, "a\ud800😀"), [0x61, 0xfffd, 0x1f600]); // whoever encodes them
});

Deno.test("TextStream: holds back an unfinished character and nothing else", () => {
  const ids = encodeText(tokenizer, "a😀é\ufffdz");
  const pieces = streamed(ids, tokenizer);
  // 😀 is four tokens, U+FFFD itself cannot be told from an unfinished character until something follows
  assert.deepEqual(pieces, ["a", "", "", "", "😀", ...pieces.slice(5)]);
  assert.equal(pieces.at(-2), "\ufffdz");
  assert.equal(pieces.at(-1), "");
  assert.equal(pieces.join(""), "a😀é\ufffdz");

  const cut = encodeText(tokenizer, "a😀").slice(0, -1);
  assert.deepEqual(streamed(cut, tokenizer), ["a", "", "", "", "\ufffd"]);

  const stream = new TextStream(tokenizer);
  assert.equal(stream.push(...cut), "a");
  assert.equal(stream.flush(), "\ufffd");
  assert.equal(stream.push(...encodeText(tokenizer, "new")), "new", "a flushed stream begins anew");
  assert.equal(stream.flush(), "");
});

Deno.test("TextStream: all tokens, and random ones, give the text they decode to together", () => {
  const all = Array.from({ length: VOCABULARY }, (_, id) => id);
  assert.equal(streamed(all, tokenizer).join(""), decodeTokens(tokenizer, all));

  const below = integers(1);
  // bytes above 127 stand near the beginning of the vocabulary: draw from there half of the time
  for (let run = 0; run < 500; run++) {
    const ids = Array.from({ length: 40 }, () => below(2) ? below(VOCABULARY) : 95 + below(162));
    assert.equal(streamed(ids, tokenizer).join(""), decodeTokens(tokenizer, ids), `${ids}`);
    const stream = new TextStream(tokenizer);
    let text = "";
    for (let at = 0; at < ids.length;) {
      const count = below(7);
      text += stream.push(...ids.slice(at, at + count));
      at += count;
    }
    assert.equal(text + stream.flush(), decodeTokens(tokenizer, ids), `in groups: ${ids}`);
  }
});

Deno.test("TextStream: tokens that end one character and begin another, for ever", () => {
  // a vocabulary of byte strings chosen to be awkward: pieces of characters of every length, and of none
  const bytes = [
    "e2",
    "82",
    "ac",
    "f0",
    "9f",
    "98",
    "80",
    "ac e2 82",
    "98 80 f0 9f",
    "80 f0",
    "ef bf bd",
    "ef bb bf",
    "41",
  ]
    .map((token) => token.split(" ").map((byte) => parseInt(byte, 16)));
  const awkward: Tokenizer = {
    encode: () => [],
    decode: (ids) =>
      new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(ids.flatMap((id) => bytes[id]))),
  };
  const chain = [0, 1, ...Array<number>(50).fill(7)];
  const pieces = streamed(chain, awkward);
  assert.deepEqual(pieces.slice(0, 5), ["", "", "€", "€", "€"]);
  assert.equal(pieces.join(""), "€".repeat(50) + "\ufffd");

  const below = integers(2);
  for (let run = 0; run < 3000; run++) {
    const ids = Array.from({ length: 24 }, () => below(bytes.length));
    assert.equal(streamed(ids, awkward).join(""), awkward.decode(ids), `${ids}`);
  }
});

Deno.test("TextStream: each token costs the decoding of a few", () => {
  let longest = 0, calls = 0;
  const counting: Tokenizer = {
    encode: (text) => tokenizer.encode(text),
    decode(ids, options) {
      longest = Math.max(longest, ids.length);
      calls++;
      return tokenizer.decode(ids, options);
    },
  };
  const continuation = encodeText(tokenizer, "\u0080").at(-1)!; // never a character, always U+FFFD
  streamed(Array<number>(500).fill(continuation), counting);
  assert(longest <= 5 && calls <= 1001, `${calls} calls of up to ${longest} tokens`);
});

Deno.test("Tokenizer: what AutoTokenizer of @huggingface/transformers gives fits as it is", async () => {
  // its declarations in version 4, of which it has many more
  interface PreTrainedTokenizer {
    encode(
      text: string,
      options?: {
        text_pair?: string | null;
        add_special_tokens?: boolean;
        return_token_type_ids?: boolean | null;
      },
    ): number[];
    decode(
      token_ids: number[] | bigint[],
      decode_args?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean },
    ): string;
    batch_decode(batch: number[][], decode_args?: object): string[];
  }
  const seen: unknown[] = [];
  const theirs: PreTrainedTokenizer = {
    encode: (text, options) => (seen.push(text, options), [5]),
    decode: (ids, options) => (seen.push(ids, options), "five"),
    batch_decode: () => [],
  };
  const ours: Tokenizer = theirs;
  assert.deepEqual(encodeText(ours, "five"), [5]);
  assert.equal(decodeTokens(ours, [5]), "five");
  assert.deepEqual(seen.slice(-4), [
    "five",
    { add_special_tokens: false },
    [5],
    { skip_special_tokens: false, clean_up_tokenization_spaces: false },
  ]);
  // it is a function with these methods
  const callable: Tokenizer = Object.assign((text: string) => theirs.encode(text), theirs);
  using engine = await loadEngine({ drafter: null, threads: 1, tokenizer: callable });
  assert.match((await engine.generate("five", { maxTokens: 3 })).text, /^(five)+$/);
});

Deno.test("loadTokenizer: from a file, its folder, or a folder beside it", async () => {
  const text = "Call me Ishmael.";
  for (const name of ["", "tokenizer.json", "target/"]) {
    const loaded = await loadTokenizer(new URL(name, pair));
    assert.deepEqual(encodeText(loaded, text), encodeText(tokenizer, text));
  }
  const folder = await Deno.makeTempDir();
  const refused = (location: string, message: RegExp) =>
    assert.rejects(loadTokenizer(location), (error: unknown) => {
      assert(error instanceof CheckpointError, `not a CheckpointError: ${error}`);
      assert.match(error.message, message);
      return true;
    });
  try {
    await Deno.mkdir(join(folder, "model"));
    await refused(
      join(folder, "model"),
      /^Cannot load tokenizer ".*model": there is no ".*model\/tokenizer.json" or "/,
    );
    await refused(
      join(folder, "x.json"),
      /there is no ".*x.json"; put it there: only token ids can do without$/,
    );
    for (
      const [content, message] of [["{", /is not valid JSON/], ["[]", /is not a JSON object$/], [
        "{}",
        /^Cannot load tokenizer/,
      ]] as const
    ) {
      await Deno.writeTextFile(join(folder, "tokenizer.json"), content);
      await refused(folder, message);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("loadTokenizer: what the library would take, and trip over later, is refused", async () => {
  const sound = {
    added_tokens: [{ id: 2, content: "<|endoftext|>", special: true }],
    pre_tokenizer: null as unknown,
    normalizer: null,
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 3 } as unknown, merges: [["a", "b"]] as unknown },
  };
  const { model } = sound;
  const split = (Regex: unknown) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  });
  const cases: [object, RegExp][] = [
    [{ ...sound, model: 3 }, /"model" is 3, expected an object$/],
    [{ ...sound, model: { ...model, type: "Foo" } }, /"model.type" is "Foo", expected BPE or WordPiece$/],
    [
      { ...sound, model: { ...model, vocab: [["a", 0]] } },
      /"model.vocab" is \[\["a",0\]\], expected an object of/,
    ],
    [
      { ...sound, model: { ...model, vocab: { a: -1 } } },
      /the id of token "a" is -1, expected a non-negative integer$/,
    ],
    [{ ...sound, model: { ...model, vocab: { a: "0" } } }, /the id of token "a" is "0"/],
    [
      { ...sound, model: { ...model, merges: ["a c"] } },
      /a merge is "a c", expected two tokens of the vocabulary that/,
    ],
    [{ ...sound, model: { ...model, merges: [["b", "a"]] } }, /a merge is \["b","a"\], expected/],
    [{ ...sound, added_tokens: [{ id: 1.5, content: "x" }] }, /an entry of "added_tokens" is \{"id":1.5,/],
    [
      { ...sound, pre_tokenizer: split("b|x(a*a*|b)a*c") },
      /a pattern is "b\|x.*", expected one with at most 2 repetitions in a row, and/,
    ],
    [
      { ...sound, pre_tokenizer: split("a{0,99}".repeat(4) + "b") },
      /and 1024 steps of the bounded ones$/,
    ],
    // quick in every short text
    ...["(?<=[^a]{1100})[^a]*[^a]*a", "[^a]{1100,}[^a]*a", "(?<!^[^a]{0,1100})[^a]*[^a]*a"].map(
      (pattern): [object, RegExp] => [
        { ...sound, pre_tokenizer: split(pattern) },
        /and 1024 steps of the bounded ones$/,
      ],
    ),
    [
      { ...sound, pre_tokenizer: split(`${".".repeat(1100)}.*.*a`) },
      /expected one of at most 1024 characters and classes$/,
    ],
    [{ ...sound, pre_tokenizer: split("(?:a|aa){0,40}b") }, /no group is repeated$/],
    ...["normalizer", "decoder"].map((part): [object, RegExp] => [
      {
        ...sound,
        [part]: {
          type: "Sequence",
          [`${part}s`]: Array(7).fill({ type: "Replace", pattern: { String: "a" }, content: "aa" }),
        },
      },
      new RegExp(`"${part}" is .*, expected one that makes a text at most 64 times as long$`),
    ]),
    [
      { ...sound, pre_tokenizer: split("(a+)+$") },
      /a pattern is "\(a\+\)\+\$", expected one in which no group is rep/,
    ],
    [
      { ...sound, pre_tokenizer: { type: "Sequence", pretokenizers: [split("(?:a|a){2,}")] } },
      /no group is repeated$/,
    ],
    [{ ...sound, pre_tokenizer: split(7) }, /a pattern is 7, expected/],
    [
      { ...sound, decoder: { type: "none such" } },
      /^Cannot load tokenizer ".*": "Unknown Decoder type: none such"$/,
    ],
  ];
  const folder = await Deno.makeTempDir(), path = join(folder, "tokenizer.json");
  const write = (json: object) => Deno.writeTextFile(path, JSON.stringify(json));
  try {
    await write({ ...sound, pre_tokenizer: split("\\)+|a?b*| ?\\p{L}+") });
    const loaded = await loadTokenizer(folder);
    assert.deepEqual(encodeText(loaded, "ab<|endoftext|>"), [3, 2]);
    for (
      const published of [
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", // GPT-2
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+", // DeepSeek V3, in part
        "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+", // Llama 3
        "[^\\r\\n\\p{L}]?[\\p{Lu}\\p{M}]*[\\p{Ll}\\p{M}]+(?i:'s|'t)?| ?[^\\s\\p{L}]+[\\r\\n/]*|\\s+", // GPT-4o
      ]
    ) {
      await write({ ...sound, pre_tokenizer: split(published) });
      await loadTokenizer(folder);
    }
    await write({ ...sound, model: { type: "WordPiece", unk_token: "[UNK]", vocab: { a: 0 } } });
    const pieces = await loadTokenizer(folder);
    assert.throws(() => encodeText(pieces, "b"), {
      name: "CheckpointError",
      message: `Cannot encode with tokenizer "${path}": it has no token for "[UNK]"`,
    });
    for (const [json, message] of cases) {
      await write(json);
      await assert.rejects(loadTokenizer(folder), (error: unknown) => {
        assert(error instanceof CheckpointError, `not a CheckpointError: ${error}`);
        assert.match(error.message, message);
        return true;
      });
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("encodeText: a text that would take minutes is refused, a pause is not", () => {
  const now = performance.now;
  let clock = 0, encoded = 0;
  performance.now = () => clock;
  /** Takes as long as it is told, by the text's length in units of 512. */
  const taking = (ms: (length: number) => number) => ({
    encode(text: string) {
      clock += ms(text.length / 512);
      encoded = text.length;
      return [text.length];
    },
    decode: () => "",
  });
  try {
    const cubic = taking((n) => 25 * n ** 3);
    assert.throws(() => encodeText(cubic, "a".repeat(8000)), {
      name: "RangeError",
      message:
        "Cannot encode a text of 8000 characters: the tokenizer takes 1490 ms for 2000 of them, and would take " +
        "about 95 s for all, expected 30 at most",
    });
    assert.equal(encoded, 2000);
    assert.deepEqual(encodeText(cubic, "a".repeat(5000)), [5000]);
    assert.deepEqual(encodeText(taking((n) => 100 * n), "a".repeat(100_000)), [100_000]);
    // quick for the first 1100 characters
    const late = taking((n) => 1 + 100 * Math.max(0, n - 1100 / 512) ** 3);
    assert.throws(
      () => encodeText(late, "a".repeat(8008)),
      /takes 548 ms for 2002 of them, and would take about/,
    );
    assert.equal(encoded, 2002);
    // slow for the shortest text
    assert.throws(() => encodeText(taking((n) => 1e10 * n ** 3), "a".repeat(512)), /for 4 of them/);
    // half a word may have no token
    const whole = { ...cubic, encode: (text: string) => text.length < 99 ? assert.fail() : [text.length] };
    assert.deepEqual(encodeText(whole, "a".repeat(99)), [99]);
    // where the text is cut to look at its beginning, half a character is left out
    const strict = {
      ...cubic,
      encode: (text: string) => (assert.ok(!text.includes("\ufffd")), [text.length]),
    };
    for (const head of [511, 512]) encodeText(strict, `${"a".repeat(head)}${"😀".repeat(600)}`);
    // the first look at a text may fall into a pause of the program
    const looks = [500];
    assert.deepEqual(encodeText(taking(() => looks.pop() ?? 1), "a".repeat(1e6)), [1e6]);
  } finally {
    performance.now = now;
  }
});
