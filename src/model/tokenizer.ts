/** What every tokenizer gives, whatever file it was read from. */
export interface Tokenizer {
  /** `bos` defaults to what the model's own tokenizer does. Special tokens in the text are recognised as the model's own tokenizer does. */
  encode(text: string, options?: { bos?: boolean }): Int32Array;
  /** Special tokens are written out unless `skipSpecial`. Ids without a token give no text; what is no id (negative, broken) throws E_TOKEN_ID. */
  decode(ids: ArrayLike<number>, options?: { skipSpecial?: boolean }): string;
  /** One more than the largest id that has a token. */
  readonly vocabSize: number;
  readonly bosId: number | undefined;
  readonly eosIds: number[];
  /** Whether `encode` prepends BOS by default. */
  readonly addsBos: boolean;
  /** `tokenizer.json` or `tokenizer.model`. */
  readonly source: string;
}
