/** What every tokenizer gives, whatever file it was read from. */
export interface Tokenizer {
  /** `bos` defaults to what the model's own tokenizer does. Special tokens in the text are recognised as the model's own tokenizer does. */
  encode(text: string, options?: { bos?: boolean }): Int32Array;
  decode(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): string;
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosIds: number[];
  /** Whether `encode` prepends BOS by default. */
  readonly addsBos: boolean;
  /** `tokenizer.json` or `tokenizer.model`. */
  readonly source: string;
}
