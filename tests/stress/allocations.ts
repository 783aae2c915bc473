/**
 * How many bytes of buffers and arrays a program asks for: what it says itself, where the memory in use would also
 * tell of the collector and of pages never touched. Copies that the engine makes of what is there are not counted.
 *
 * @module
 */

const COUNTED = [
  "ArrayBuffer",
  "SharedArrayBuffer",
  "Uint8Array",
  "Int8Array",
  "Uint16Array",
  "Int16Array",
  "Uint32Array",
  "Int32Array",
  "Float16Array",
  "Float32Array",
  "Float64Array",
  "BigInt64Array",
  "BigUint64Array",
  "Array",
] as const;

// deno-lint-ignore no-explicit-any
type Constructor = new (...args: any[]) => { readonly byteLength?: number; readonly length?: number };

/** Runs a body and adds up what is asked for meanwhile, by this thread. */
export async function countBytes(body: () => Promise<void>): Promise<number> {
  const scope = globalThis as unknown as Record<string, Constructor>;
  let bytes = 0;
  using restored = new DisposableStack();
  for (const name of COUNTED) {
    const own = scope[name];
    scope[name] = new Proxy(own, {
      construct(_, args, target) {
        const made = Reflect.construct(own, args, target === scope[name] ? own : target);
        // a view of a buffer asks for nothing
        if (!ArrayBuffer.isView(made) || made.buffer !== args[0]) {
          bytes += made.byteLength ?? 8 * made.length!;
        }
        return made;
      },
    });
    restored.defer(() => void (scope[name] = own));
  }
  await body();
  return bytes;
}
