import assert from "node:assert/strict";
import { TextStops } from "../src/text_stops.ts";

/** Feeds a text character by character; returns what was let through and where it stopped. */
function feed(text: string, stops: readonly string[]): { out: string; stopped: boolean } {
  const watch = new TextStops(stops);
  let out = "";
  for (const character of text) {
    const step = watch.push(character);
    out += step.text;
    if (step.stopped) return { out, stopped: true };
  }
  return { out: out + watch.flush(), stopped: false };
}

Deno.test("TextStops cuts at the first stop string and keeps it out of the text", () => {
  assert.deepEqual(feed("one two three", ["two"]), { out: "one ", stopped: true });
  assert.deepEqual(feed("aaab", ["aab"]), { out: "a", stopped: true });
  assert.deepEqual(feed("x\n\ny", ["\n\n"]), { out: "x", stopped: true });
});

Deno.test("TextStops holds back what may become a stop string and gives it up otherwise", () => {
  const watch = new TextStops(["END"]);
  assert.deepEqual(watch.push("the E"), { text: "the ", stopped: false });
  assert.deepEqual(watch.push("N"), { text: "", stopped: false });
  assert.deepEqual(watch.push("T"), { text: "ENT", stopped: false });
  assert.equal(watch.flush(), "");
  assert.deepEqual(feed("the EN", ["END"]), { out: "the EN", stopped: false });
  for (const stops of [["END", "the other"], ["the other", "END"]]) { // of any of them
    assert.deepEqual(feed("the END", stops), { out: "the ", stopped: true });
    assert.deepEqual(feed("an END of the other", stops), { out: "an ", stopped: true });
    assert.deepEqual(feed("an EN of the others", stops), { out: "an EN of ", stopped: true });
  }
});

Deno.test("TextStops takes the earliest of several within a piece", () => {
  for (const stops of [["yy", "x"], ["x", "yy"]]) {
    const watch = new TextStops(stops);
    assert.deepEqual(watch.push("a x yy"), { text: "a ", stopped: true });
    assert.equal(watch.flush(), ""); // what follows is gone
  }
});

Deno.test("TextStops without stop strings lets everything through at once", () => {
  assert.deepEqual(new TextStops([]).push("anything"), { text: "anything", stopped: false });
});

Deno.test("TextStops refuses an empty stop string, and what is no string", () => {
  assert.throws(() => new TextStops(["a", ""]), RangeError);
  assert.throws(() => new TextStops(["a", 3 as unknown as string]), {
    name: "TypeError",
    message: "Cannot stop at 3: expected a string",
  });
});
