/**
 * `pytorch_model.bin`, as `torch.save` has written it since PyTorch 1.6: a zip archive of one pickle, which describes
 * tensors, and one member of raw bytes per storage (`torch/serialization.py`). Nothing of the pickle is executed, and
 * names in it that are no part of a tensor are refused.
 *
 * Deliberately absent: the format before 1.6, sparse, quantised and strided tensors, and objects that are no
 * tensors. They are refused with the command that converts them.
 *
 * @module
 */

import type { ByteSource } from "./files.ts";
import { isNatural, isNaturals } from "./json.ts";
import { type PickleFunction, readPickle } from "./pickle.ts";
import { ELEMENT_BYTES, fault, refusePointer, TensorFile, type TensorInfo } from "./tensor_file.ts";
import { type Member, readZip } from "./zip.ts";

/** The most bytes of a pickle that are read; one tensor takes about 200. */
const MAX_PICKLE_BYTES = 16 << 20;

/** The dtypes of the storages that may be named. */
const STORAGE_DTYPES: ReadonlyMap<string, string> = new Map(Object.entries({
  ...{ FloatStorage: "F32", HalfStorage: "F16", BFloat16Storage: "BF16", DoubleStorage: "F64" },
  ...{ CharStorage: "I8", ShortStorage: "I16", IntStorage: "I32", LongStorage: "I64" },
  ...{ ByteStorage: "U8", BoolStorage: "BOOL" },
}));

/** A type of storage, as a pickle names it. */
class StorageType {
  constructor(readonly dtype: string) {}
}

/** A storage: raw elements, which tensors are views of. */
class Storage {
  constructor(readonly dtype: string, readonly member: Member) {}
}

/** A tensor, as a pickle describes it: where in its storage it begins, and in which steps its axes are laid out. */
class StoredTensor {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/**
 * Opens a file of `torch.save` that holds a dictionary of tensors. The result owns `source`; on failure it is closed.
 *
 * @param path what messages call it
 * @throws {CheckpointError} if it is broken, or holds anything else
 */
export async function openTorchFile(source: ByteSource, path: string): Promise<TensorFile> {
  try {
    return new TensorFile(source, path, await readTensors(source, path));
  } catch (error) {
    source[Symbol.dispose]();
    throw error instanceof RangeError ? fault(path, error.message) : error;
  }
}

async function readTensors(source: ByteSource, path: string): Promise<Map<string, TensorInfo>> {
  const first = new Uint8Array(Math.min(source.size, 8));
  await source.read(first, 0);
  refusePointer(first, path);
  // a pickle of protocol 2 stands where the archive should begin
  if (first[0] === 0x80) {
    throw new RangeError(`it has the format from before PyTorch 1.6; ${conversion(path)}`);
  }
  const members = await readZip(source);
  const pickles = [...members.keys()].filter((name) => /^[^/]*\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new RangeError(`it has ${pickles.length} members named "data.pkl" in a folder, expected one`);
  }
  const folder = pickles[0].slice(0, -"data.pkl".length);
  const order = members.get(`${folder}byteorder`);
  if (order !== undefined && new TextDecoder().decode(await readMember(source, order)) !== "little") {
    throw new RangeError(`its byte order is not little-endian; ${conversion(path)}`);
  }

  const storage = (id: unknown): Storage => {
    const [kind, type, key] = Array.isArray(id) ? id : [];
    if (kind !== "storage" || !(type instanceof StorageType) || typeof key !== "string") {
      throw new RangeError("its pickle refers to something other than a storage");
    }
    const member = members.get(`${folder}data/${key}`);
    if (member === undefined) throw new RangeError(`its storage "${key}" is missing`);
    return new Storage(type.dtype, member);
  };
  const value = readPickle(await readMember(source, members.get(pickles[0])!), {
    global: known,
    persistent: storage,
  });
  if (!(value instanceof Map)) throw new RangeError("it does not hold a dictionary of tensors");
  const tensors = new Map<string, TensorInfo>();
  for (const [name, tensor] of value) {
    if (typeof name !== "string") throw new RangeError("the name of a tensor is not a text");
    if (!(tensor instanceof StoredTensor)) throw new RangeError(`its entry "${name}" is not a tensor`);
    tensors.set(name, locate(name, tensor, path));
  }
  return tensors;
}

/** All of a small member. */
async function readMember(source: ByteSource, { start, size }: Member): Promise<Uint8Array> {
  if (size > MAX_PICKLE_BYTES) {
    throw new RangeError(`its pickle has ${size} bytes, expected at most ${MAX_PICKLE_BYTES}`);
  }
  const bytes = new Uint8Array(size);
  await source.read(bytes, start);
  return bytes;
}

/** The few names that a dictionary of tensors needs. */
function known(module: string, name: string): StorageType | PickleFunction {
  const dtype = module === "torch" ? STORAGE_DTYPES.get(name) : undefined;
  if (dtype !== undefined) return new StorageType(dtype);
  switch (`${module}.${name}`) {
    case "collections.OrderedDict":
      return emptyDictionary;
    case "torch._utils._rebuild_tensor_v2":
      return rebuildTensor;
    case "torch._utils._rebuild_parameter":
      return ([tensor]) => tensor;
  }
  throw new RangeError(
    `its pickle names ${JSON.stringify(`${module}.${name}`)}, which is no part of a tensor: it is not run`,
  );
}

function emptyDictionary(args: readonly unknown[]): Map<unknown, unknown> {
  if (args.length > 0) throw new RangeError("its pickle is broken");
  return new Map();
}

/** `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)` */
function rebuildTensor([storage, offset, shape, strides]: readonly unknown[]): StoredTensor {
  if (
    !(storage instanceof Storage) || !isNatural(offset) || !isNaturals(shape) || !isNaturals(strides) ||
    shape.length !== strides.length
  ) {
    throw new RangeError("its pickle describes an impossible tensor");
  }
  return new StoredTensor(storage, offset, shape, strides);
}

/** Where a tensor lies in the file, if it lies there in one piece. */
function locate(name: string, { storage, offset, shape, strides }: StoredTensor, path: string): TensorInfo {
  let elements = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] > 1 && strides[axis] !== elements) {
      throw new RangeError(`tensor "${name}" is not stored row by row; ${conversion(path)}`);
    }
    elements *= shape[axis];
  }
  const size = ELEMENT_BYTES.get(storage.dtype)!;
  const end = (offset + elements) * size;
  if (!(end <= storage.member.size)) { // nor NaN
    throw new RangeError(
      `tensor "${name}" of shape [${
        shape.join(", ")
      }] and dtype ${storage.dtype} ends at byte ${end} of its ` +
        `storage, expected at most ${storage.member.size}`,
    );
  }
  const start = storage.member.start + offset * size;
  return { name, dtype: storage.dtype, shape, bytes: elements * size, start };
}

/** The remedy for a file that PyTorch can read and this module cannot. */
function conversion(path: string): string {
  return "convert it once: python3 -c 'import sys, torch; f = sys.argv[1]; torch.save({k: v.contiguous() for k, v in " +
    `torch.load(f, "cpu", weights_only=True).items()}, f)' "${path}"`;
}
