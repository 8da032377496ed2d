/**
 * A decoder in plain double precision, straight from config.json and the tensors by their published names. It shares no code
 * with the runtime and the checkpoint reader: what both agree on is right, or wrong twice.
 */
import type { RandomTensor } from './random_model.js';

type Vector = number[];

interface Config {
  hidden_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  rms_norm_eps: number;
  rope_theta: number;
  tie_word_embeddings: boolean;
}

/** Logits [ids.length][vocab] of every position. */
export function naiveLogits(
  config: Record<string, unknown>,
  tensors: readonly RandomTensor[],
  ids: ArrayLike<number>,
): Vector[] {
  const c = config as unknown as Config;
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const find = (name: string): RandomTensor => {
    const tensor = byName.get(name);
    if (tensor === undefined) throw new Error(`no tensor ${name}`);
    return tensor;
  };
  const vector = (name: string): Vector => [...find(name).data];
  const row = (name: string, i: number): Vector => {
    const { shape, data } = find(name);
    return [...data.subarray(i * shape[1]!, (i + 1) * shape[1]!)];
  };
  const times = (name: string, x: Vector): Vector => {
    const { shape, data } = find(`${name}.weight`);
    const bias = byName.get(`${name}.bias`)?.data;
    return Array.from({ length: shape[0]! }, (_, i) => {
      let sum = bias?.[i] ?? 0;
      for (let k = 0; k < x.length; k++) sum += data[i * x.length + k]! * x[k]!;
      return sum;
    });
  };
  const norm = (name: string, x: Vector): Vector => {
    const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + c.rms_norm_eps);
    const weight = vector(`${name}.weight`);
    return x.map((v, i) => v * scale * weight[i]!);
  };
  const d = c.head_dim;
  const rotate = (x: Vector, position: number): Vector =>
    x.map((value, i) => {
      const [head, at] = [Math.floor(i / d) * d, i % d];
      const pair = at % (d / 2);
      const angle = position * c.rope_theta ** ((-2 * pair) / d);
      const other = at < d / 2 ? -x[head + at + d / 2]! : x[head + at - d / 2]!;
      return value * Math.cos(angle) + other * Math.sin(angle);
    });

  const states = Array.from(ids, (id) => row('model.embed_tokens.weight', id));
  for (let l = 0; l < c.num_hidden_layers; l++) {
    const layer = `model.layers.${l}`;
    const keys: Vector[] = [];
    const values: Vector[] = [];
    for (const [t, x] of states.entries()) {
      const inner = norm(`${layer}.input_layernorm`, x);
      const q = rotate(times(`${layer}.self_attn.q_proj`, inner), t);
      keys.push(rotate(times(`${layer}.self_attn.k_proj`, inner), t));
      values.push(times(`${layer}.self_attn.v_proj`, inner));
      const attended: Vector = [];
      for (let h = 0; h < c.num_attention_heads; h++) {
        const kv = Math.floor(h / (c.num_attention_heads / c.num_key_value_heads)) * d;
        const scores = keys.map((k) => {
          let sum = 0;
          for (let i = 0; i < d; i++) sum += q[h * d + i]! * k[kv + i]!;
          return sum / Math.sqrt(d);
        });
        const most = Math.max(...scores);
        const weights = scores.map((s) => Math.exp(s - most));
        const total = weights.reduce((a, b) => a + b, 0);
        for (let i = 0; i < d; i++)
          attended.push(values.reduce((sum, v, j) => sum + (weights[j]! / total) * v[kv + i]!, 0));
      }
      add(x, times(`${layer}.self_attn.o_proj`, attended));
    }
    for (const x of states) {
      const inner = norm(`${layer}.post_attention_layernorm`, x);
      const up = times(`${layer}.mlp.up_proj`, inner);
      const gated = times(`${layer}.mlp.gate_proj`, inner).map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!);
      add(x, times(`${layer}.mlp.down_proj`, gated));
    }
  }
  const head = c.tie_word_embeddings ? 'model.embed_tokens' : 'lm_head';
  return states.map((x) => times(head, norm('model.norm', x)));
}

function add(to: Vector, what: Vector): void {
  for (let i = 0; i < to.length; i++) to[i]! += what[i]!;
}
