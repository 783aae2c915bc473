/**
 * Reads a pickle without running code. A pickle is a program for a stack machine that may call any function it names.
 * This machine has only the instructions that build plain values. Where a program names a function or refers to
 * something outside, the caller returns a stand-in, or refuses.
 *
 * The instructions are those that `torch.save` uses, protocols 2 to 4 (CPython's `pickletools.py` explains each).
 * Dictionaries become maps, tuples and lists become arrays; objects with attributes lose them.
 *
 * @module
 */

/** The reader's stand-ins for names and references in a pickle; each method may refuse by throwing. */
export interface PickleContext {
  /** The stand-in for a global name. If the pickle calls it, it must be a {@linkcode PickleFunction}. */
  global(module: string, name: string): unknown;
  /** The value of a persistent id. */
  persistent(id: unknown): unknown;
}

/** The stand-in for a function that a pickle calls. */
export type PickleFunction = (args: readonly unknown[]) => unknown;

/** The most instructions that are carried out: thirty or so describe a tensor. */
const MAX_INSTRUCTIONS = 1_000_000;

/** Marks where the operands of an instruction with many begin. */
const MARK = Symbol("mark");

const utf8 = new TextDecoder("utf-8", { fatal: true });

function broken(): RangeError {
  return new RangeError("its pickle is broken");
}

/**
 * The value that a pickle describes. Time and memory are proportional to its length, and bounded.
 *
 * @throws {RangeError} if it is broken or has an instruction that is not known here, with what is wrong as the message
 */
export function readPickle(bytes: Uint8Array, context: PickleContext): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stack: unknown[] = [], memo = new Map<number, unknown>();
  let at = 0;

  const skip = (count: number): number => {
    if (count > bytes.length - at) throw new RangeError("its pickle is cut off");
    return (at += count) - count;
  };
  const u8 = () => view.getUint8(skip(1));
  const u32 = () => view.getUint32(skip(4), true);
  const text = (length: number) => {
    const start = skip(length);
    try {
      return utf8.decode(bytes.subarray(start, start + length));
    } catch {
      throw broken();
    }
  };
  const line = () => {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new RangeError("its pickle is cut off");
    const words = text(end - at);
    skip(1);
    return words;
  };
  const integer = (length: number) => {
    let value = 0n;
    for (let i = 0; i < length; i++) value |= BigInt(u8()) << BigInt(8 * i);
    return Number(BigInt.asIntN(8 * length, value));
  };
  const pop = (): unknown => {
    if (stack.length === 0 || stack.at(-1) === MARK) throw broken();
    return stack.pop();
  };
  const popMarked = (): unknown[] => {
    const mark = stack.lastIndexOf(MARK);
    if (mark < 0) throw broken();
    const items = stack.splice(mark + 1);
    stack.pop();
    return items;
  };
  const popMany = (count: number) => Array.from({ length: count }, pop).reverse();
  const top = <T>(kind: abstract new (...args: never[]) => T): T => {
    const value = stack.at(-1);
    if (!(value instanceof kind)) throw broken();
    return value;
  };
  const remembered = (key: number) => {
    if (!memo.has(key)) throw broken();
    return memo.get(key);
  };
  const remember = (key: number) => {
    const value = pop();
    memo.set(key, value);
    stack.push(value);
  };
  const setItems = (items: readonly unknown[]) => {
    const map = top(Map);
    if (items.length % 2 !== 0) throw broken();
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  };

  for (let count = 0;; count++) {
    if (count === MAX_INSTRUCTIONS) {
      throw new RangeError(`its pickle has more than ${MAX_INSTRUCTIONS} instructions`);
    }
    const opcode = u8();
    switch (String.fromCharCode(opcode)) {
      case "\x80": { // PROTO
        const protocol = u8();
        if (protocol > 4) throw new RangeError(`its pickle has protocol ${protocol}, expected at most 4`);
        break;
      }
      case "\x95": // FRAME: what follows is 8 bytes of its length
        skip(8);
        break;
      case ".": // STOP
        return pop();

      case "N": // NONE
        stack.push(null);
        break;
      case "\x88": // NEWTRUE
        stack.push(true);
        break;
      case "\x89": // NEWFALSE
        stack.push(false);
        break;
      case "J": // BININT
        stack.push(view.getInt32(skip(4), true));
        break;
      case "K": // BININT1
        stack.push(u8());
        break;
      case "M": // BININT2
        stack.push(view.getUint16(skip(2), true));
        break;
      case "\x8a": { // LONG1
        const length = u8();
        if (length > 8) {
          throw new RangeError(`its pickle has an integer of ${length} bytes, expected at most 8`);
        }
        stack.push(integer(length));
        break;
      }
      case "G": // BINFLOAT
        stack.push(view.getFloat64(skip(8)));
        break;
      case "X": // BINUNICODE
        stack.push(text(u32()));
        break;
      case "\x8c": // SHORT_BINUNICODE
        stack.push(text(u8()));
        break;

      case "(": // MARK
        stack.push(MARK);
        break;
      case ")": // EMPTY_TUPLE
      case "]": // EMPTY_LIST
        stack.push([]);
        break;
      case "\x85": // TUPLE1
        stack.push(popMany(1));
        break;
      case "\x86": // TUPLE2
        stack.push(popMany(2));
        break;
      case "\x87": // TUPLE3
        stack.push(popMany(3));
        break;
      case "t": // TUPLE
        stack.push(popMarked());
        break;
      case "a": { // APPEND
        const item = pop();
        top(Array).push(item);
        break;
      }
      case "e": { // APPENDS
        const items = popMarked(), list = top(Array);
        for (const item of items) list.push(item);
        break;
      }
      case "}": // EMPTY_DICT
        stack.push(new Map());
        break;
      case "s": // SETITEM
        setItems(popMany(2));
        break;
      case "u": // SETITEMS
        setItems(popMarked());
        break;

      case "q": // BINPUT
        remember(u8());
        break;
      case "r": // LONG_BINPUT
        remember(u32());
        break;
      case "\x94": // MEMOIZE
        remember(memo.size);
        break;
      case "h": // BINGET
        stack.push(remembered(u8()));
        break;
      case "j": // LONG_BINGET
        stack.push(remembered(u32()));
        break;

      case "c": { // GLOBAL
        const module = line();
        stack.push(context.global(module, line()));
        break;
      }
      case "\x93": { // STACK_GLOBAL
        const [module, name] = popMany(2);
        if (typeof module !== "string" || typeof name !== "string") throw broken();
        stack.push(context.global(module, name));
        break;
      }
      case "Q": // BINPERSID
        stack.push(context.persistent(pop()));
        break;
      case "R": { // REDUCE
        const args = pop(), callee = pop();
        if (typeof callee !== "function" || !Array.isArray(args)) throw broken();
        stack.push(callee(args));
        break;
      }
      case "b": // BUILD: attributes of an object, which are not kept
        pop();
        break;

      default:
        throw new RangeError(
          `its pickle has instruction 0x${opcode.toString(16)}, which is not one that builds values`,
        );
    }
  }
}
