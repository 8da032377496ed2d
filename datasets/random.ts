/** Seeded random numbers of our own: the same (seed, stream) gives the same numbers on every machine and in every order. */

const mix = (value: number): number => {
  let x = (value + 0x9e3779b9) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
};

/** A generator of unsigned 32-bit numbers (sfc32), one independent stream per (seed, stream). */
export function createRandom(seed: number, stream: number): () => number {
  let a = mix(seed);
  let b = mix(Math.floor(seed / 2 ** 32) ^ 0x5bd1e995);
  let c = mix(stream ^ 0x1b873593);
  let counter = 1;
  const next = () => {
    const t = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 15; i++) next();
  return next;
}

/** A whole number in `low..high`, both included, without modulo bias. */
export function uniformInt(random: () => number, low: number, high: number): number {
  const range = high - low + 1;
  const limit = Math.floor(2 ** 32 / range) * range;
  let x = random();
  while (x >= limit) x = random();
  return low + (x % range);
}
