/** Makes 4-bit weights of a 16-bit model, layer by layer. */
import type { ModelSpec } from '../model/spec.js';
import { addon, type NativeQuantizer, type QuantizedLayer, type QuantizeOptions } from './addon.js';
import { ignore, type JobOptions, runJob } from './job.js';

export type { QuantizedLayer, QuantizeOptions, SearchError } from './addon.js';

export class Quantizer implements Disposable {
  private constructor(private readonly native: NativeQuantizer) {}

  /** Maps the weights and embeds the calibration text, which round to nearest does not need. */
  static async create(
    spec: ModelSpec,
    calibration: Int32Array,
    options: QuantizeOptions & { signal?: AbortSignal },
  ): Promise<Quantizer> {
    const { signal, ...rest } = options;
    return new Quantizer(
      await runJob(signal, (job) => addon().createQuantizer(job, spec, calibration, rest)),
    );
  }

  /** The next layer, from 0 on. `onProgress` counts steps over all layers. */
  next(options: JobOptions = {}): Promise<QuantizedLayer> {
    return runJob(options.signal, (job) => this.native.next(job, options.onProgress ?? ignore));
  }

  /** Rows of a tensor that stays 16-bit, `embed`, `norm` or `lm_head`, as fp16 bytes. */
  plain(name: string, firstRow: number, rows: number, signal?: AbortSignal): Promise<Uint8Array> {
    return runJob(signal, (job) => this.native.plain(job, name, firstRow, rows));
  }

  dispose(): void {
    this.native.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
