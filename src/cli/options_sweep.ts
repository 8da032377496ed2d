/** Options of `quest sweep`; part of the one table in options.ts. */
import type { CommandName, OptionSpec } from './options.js';

const SWEEP: readonly CommandName[] = ['sweep'];

const option = (o: Omit<OptionSpec, 'section' | 'commands'>): OptionSpec => ({
  section: 'Command',
  commands: SWEEP,
  ...o,
});

export const SWEEP_OPTIONS: readonly OptionSpec[] = [
  option({
    name: 'out',
    short: 'o',
    type: 'string',
    placeholder: 'DIR',
    help: 'folder of the sweep; the same folder resumes (default: runs/sweep-<hash of the plan>)',
  }),
  option({
    name: 'devices',
    type: 'names',
    default: ['auto'],
    placeholder: 'LIST',
    help: 'devices that compute, one process each: auto, cpu, cuda:0,cuda:1; cpu*2 is two processes that share the cores',
  }),
  option({
    name: 'executor',
    type: 'string',
    choices: ['local', 'slurm'],
    default: 'local',
    placeholder: 'NAME',
    help: 'compute here, or as a job array of a Slurm cluster; --devices are then those of each array element',
  }),
  option({
    name: 'max-parallel',
    type: 'int',
    min: 1,
    placeholder: 'N',
    help: 'slurm: array elements that run at a time, at most',
  }),
  option({
    name: 'pack-tokens',
    type: 'int',
    min: 1,
    default: 2_000_000,
    placeholder: 'N',
    help: 'slurm: units of one model go into one array element up to this many prompt tokens',
  }),
  option({ name: 'partition', type: 'string', placeholder: 'NAME', help: 'slurm: partition' }),
  option({ name: 'account', type: 'string', placeholder: 'NAME', help: 'slurm: account' }),
  option({
    name: 'time',
    type: 'string',
    placeholder: 'LIMIT',
    help: 'slurm: time limit of an array element; what it leaves is submitted again',
  }),
  option({
    name: 'gres',
    type: 'string',
    placeholder: 'LIST',
    help: 'slurm: resources of an array element, e.g. gpu:1',
  }),
  option({
    name: 'sbatch',
    type: 'names',
    placeholder: 'LIST',
    help: "slurm: more options of sbatch, e.g. mem=64G,cpus-per-task=8; also as a map `slurm:` in the sweep's file",
  }),
  option({
    name: 'poll-seconds',
    type: 'number',
    min: 0.1,
    max: 3600,
    default: 10,
    placeholder: 'S',
    help: 'slurm: time between two looks at the queue',
  }),
  option({
    name: 'units',
    type: 'names',
    placeholder: 'LIST',
    cliOnly: true,
    help: 'compute only these units of the sweep in --out and merge nothing; this is what the array elements call',
  }),
];
