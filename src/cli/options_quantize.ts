/** Options of `quest model quantize`; part of the one table in options.ts. */
import { AWQ_GROUPS } from '../model/awq.js';
import type { OptionSpec } from './options.js';

const option = (o: Omit<OptionSpec, 'section' | 'commands'>): OptionSpec => ({
  section: 'Command',
  commands: ['model'],
  ...o,
});

export const QUANTIZE_OPTIONS: readonly OptionSpec[] = [
  option({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'DIR',
    help: 'quantize: folder for the 4-bit checkpoint (default: <model>-<method>-int4 here)',
  }),
  option({
    name: 'bits',
    type: 'int',
    min: 4,
    max: 4,
    default: 4,
    placeholder: 'N',
    help: 'quantize: bits per weight; 4 is what there is',
  }),
  option({
    name: 'group',
    type: 'int',
    min: AWQ_GROUPS[0],
    max: AWQ_GROUPS.at(-1),
    powerOfTwo: true,
    default: 128,
    placeholder: 'N',
    help: `quantize: inputs that share a scale: ${AWQ_GROUPS.join(', ')}; must divide the widths of all matrices`,
  }),
  option({
    name: 'method',
    short: 'm',
    type: 'string',
    choices: ['awq', 'rtn'],
    default: 'awq',
    placeholder: 'NAME',
    help: 'quantize: awq searches scales on the calibration text, rtn rounds to nearest',
  }),
  option({
    name: 'clip',
    type: 'switch',
    default: true,
    help: "quantize: let awq cut a group's largest weights where that lowers the error of the output",
  }),
  option({
    name: 'calibration',
    type: 'string',
    placeholder: 'FILE',
    help: 'quantize: a text; its first three quarters calibrate, its last quarter measures perplexity (default: Moby-Dick)',
  }),
  option({
    name: 'calibration-tokens',
    type: 'int',
    min: 16,
    default: 4096,
    placeholder: 'N',
    help: 'quantize: tokens of the calibration text, in sequences of up to 512 spread over it',
  }),
  option({
    name: 'tokens',
    type: 'int',
    min: 0,
    default: 8192,
    placeholder: 'N',
    help: 'quantize: tokens that perplexity is measured on, before and after; 0 does without',
  }),
  option({
    name: 'threads',
    type: 'int',
    min: 0,
    max: 1024,
    default: 0,
    placeholder: 'N',
    help: 'quantize: CPU threads; 0 uses all cores. Results do not depend on it',
  }),
];
