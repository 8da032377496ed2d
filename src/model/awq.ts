/**
 * 4-bit checkpoints as AutoAWQ writes them: `quantization_config` in config.json, and for each matrix W [out, in] of the layers
 * `qweight` [in, out / 8] and `qzeros` [in / group, out / 8] (I32, eight outputs a word) and `scales` [in / group, out] (F16).
 */
import { QuestError } from '../errors.js';
import { type Fields, show } from './fields.js';
import type { StoredTensor } from './safetensors.js';

export interface AwqFormat {
  /** Consecutive inputs that share a scale and a zero. */
  group: number;
  /** Parts of module names that stayed 16-bit. */
  plain: readonly string[];
}

/** Groups that the kernels are built for. */
export const AWQ_GROUPS = [32, 64, 128] as const;

/** Reads `quantization_config`. Throws E_CONFIG for anything but AutoAWQ's 4-bit GEMM packing, by name. */
export function readQuantization(config: Fields): AwqFormat | undefined {
  const fields = config.object('quantization_config');
  if (!fields) return undefined;
  const { values } = fields;
  const method = values.quant_method;
  const refuse = (key: string, wanted: string) =>
    fields.error(
      key,
      wanted,
      'use a 16-bit checkpoint, or one that AutoAWQ made (quant_method awq, version gemm, 4 bits)',
    );
  if (method !== 'awq') throw refuse('quant_method', '"awq"');
  if (values.bits !== 4) throw refuse('bits', '4');
  if (values.zero_point !== undefined && values.zero_point !== true) throw refuse('zero_point', 'true');
  const version = values.version ?? 'gemm';
  if (typeof version !== 'string' || version.toLowerCase() !== 'gemm') throw refuse('version', '"gemm"');
  const group = AWQ_GROUPS.find((size) => size === values.group_size);
  if (group === undefined) throw refuse('group_size', AWQ_GROUPS.join(', '));
  const plain = values.modules_to_not_convert ?? [];
  if (!Array.isArray(plain) || !plain.every((name) => typeof name === 'string' && name !== ''))
    throw refuse('modules_to_not_convert', 'a list of names or null');
  return { group, plain };
}

/** Whether the tensor `name` (`....weight`) is stored in 4 bits. */
export function isPacked(
  format: AwqFormat | undefined,
  name: string,
  shape: readonly number[],
  inLayer: boolean,
): format is AwqFormat {
  return (
    format !== undefined && inLayer && shape.length === 2 && !format.plain.some((part) => name.includes(part))
  );
}

export interface PackedPart {
  role: 'weights' | 'zeros' | 'scales';
  name: string;
  dtype: string;
  shape: number[];
}

/** The three stored tensors that hold the matrix `name` of shape [out, in]. Throws E_WEIGHTS where it cannot be cut into groups. */
export function packedParts(format: AwqFormat, name: string, shape: readonly number[]): PackedPart[] {
  const [rows, columns] = shape as [number, number];
  const { group } = format;
  if (rows % 8 !== 0 || columns % group !== 0)
    throw new QuestError(
      'E_WEIGHTS',
      `${show(name)} of shape [${rows}, ${columns}] cannot be stored in 4 bits in groups of ${group}`,
      { hint: `outputs come in eights and inputs in groups of group_size; it is ${group} in config.json` },
    );
  const stem = name.replace(/weight$/, '');
  return [
    { role: 'weights', name: `${stem}qweight`, dtype: 'I32', shape: [columns, rows / 8] },
    { role: 'zeros', name: `${stem}qzeros`, dtype: 'I32', shape: [columns / group, rows / 8] },
    { role: 'scales', name: `${stem}scales`, dtype: 'F16', shape: [columns / group, rows] },
  ];
}

/** Checks one stored part. Throws E_WEIGHTS that names the tensor, what it is and what was wanted. */
export function checkPart(part: PackedPart, stored: StoredTensor, from: string): void {
  const { name, dtype, shape } = part;
  if (
    stored.dtype === dtype &&
    stored.shape.length === 2 &&
    stored.shape.every((size, i) => size === shape[i])
  )
    return;
  throw new QuestError(
    'E_WEIGHTS',
    `${from}: tensor ${show(name)} is ${stored.dtype} [${stored.shape.join(', ')}]; config.json asks for ${dtype} [${shape.join(', ')}]`,
    {
      hint: 'quantization_config and the weights do not fit each other, or the file is of another packing than GEMM',
    },
  );
}
