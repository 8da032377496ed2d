/**
 * Book ids of the PG-19 test split, for when the bucket's own listing cannot be read. 99 of the 100: which book is missing
 * here could not be found out, so the listing, which has all 100 with sizes and MD5, is asked first.
 */

/** Seen in a published per-book table of the split. */
const CONFIRMED = [
  860, 2544, 4128, 5396, 5734, 5770, 5956, 5962, 6412, 6941, 7412, 7987, 8197, 8559, 8788, 9315, 9931, 10146,
  10321, 10356, 10762, 12204, 15562, 22424, 24553, 25646, 25773, 25830, 26183, 26239, 26493, 26618, 27454,
  28444, 28988, 29594, 40579, 40700, 41603, 41607, 42655, 43536, 43845, 44099, 44557, 45313, 45881, 45888,
  46915, 47068, 47558, 47581, 47676, 48693, 49078, 49529, 49596, 50287, 53345, 54537, 54624, 55339, 55871,
  56410, 57791, 58473, 58553, 58598,
];

/** Believed to be in the split, not seen in a published list; the bucket may answer 404 for some. */
const RECALLED = [
  3129, 3247, 3340, 3608, 3754, 3890, 4047, 25066, 29973, 30312, 30752, 30754, 31974, 32761, 33426, 33756,
  34467, 35205, 35246, 36256, 37006, 37328, 37403, 37443, 37702, 38106, 38929, 38955, 42081, 48871, 51410,
];

export const PG19_TEST_BOOKS = 100;

/** In the order of the bucket's listing: by name, so that 10146 is the first book. */
export const PG19_TEST_IDS: readonly string[] = [...CONFIRMED, ...RECALLED].map(String).sort();
