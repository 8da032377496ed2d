/** Process exit codes: 0 ok, 1 failed evaluation or check, 2 usage, 3 environment, 130 interrupted. */
export type ExitCode = 1 | 2 | 3 | 130;

/** The one error type that users see: a code, what was seen and wanted, and a hint. Never shown with a stack trace unless --verbose. */
export class QuestError extends Error {
  readonly code: string;
  readonly hint: string | undefined;
  readonly exitCode: ExitCode;

  constructor(
    code: string,
    message: string,
    options: { hint?: string; exitCode?: ExitCode; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'QuestError';
    this.code = code;
    this.hint = options.hint;
    this.exitCode = options.exitCode ?? 2;
  }
}
