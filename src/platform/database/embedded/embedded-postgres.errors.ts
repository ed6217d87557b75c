/** Explains in one line why the embedded PostgreSQL cannot run, and what to do about it. */

/** The embedded PostgreSQL cannot run. `message` is one line for people: reason and remedy. */
export class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError';
}

const VERSION_MISMATCH =
  /initialized by PostgreSQL version (\S+), which is not compatible with this version (\S+?)\.?\n/;

/** What helps against a line of the server's log. */
const ADVICE: readonly (readonly [symptom: RegExp, advice: string])[] = [
  [/shared librar/, 'was it installed with --ignore-scripts? Try npm rebuild'],
  [
    /^setpriv:/,
    'the user of the server may not enter a folder above it, and this root lacks the capability ' +
      'to help: open that folder to others',
  ],
  [
    /look up effective user/,
    'PostgreSQL needs a user with a name: add it to /etc/passwd, or set DATABASE_URL',
  ],
];

/** System errors that mean: this process may not write, or cannot create, a path. */
const UNUSABLE_PATH = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'ENOSPC', 'ELOOP']);
/** SQLSTATE invalid_password. */
const INVALID_PASSWORD = '28P01';

/** @param lines what initdb or the server in `folder` printed before it ended */
export function explainOutput(folder: string, lines: readonly string[]): EmbeddedPostgresError {
  const [, oldVersion, newVersion] = VERSION_MISMATCH.exec(`${lines.join('\n')}\n`) ?? [];
  if (oldVersion !== undefined) {
    return new EmbeddedPostgresError(
      `${folder} was created by PostgreSQL ${oldVersion}, but this is ${newVersion}: ` +
        'dump it with the old version and restore it here, or move the folder away',
    );
  }
  const line = mostTellingLine(lines);
  const advice = ADVICE.find(([symptom]) => symptom.test(line))?.[1];
  const reason = line.replace(/^.*(?:FATAL|PANIC|ERROR):\s*/, '');
  return new EmbeddedPostgresError(
    `The embedded PostgreSQL in ${folder} does not start: ${reason}${advice ? ` (${advice})` : ''}`,
  );
}

function mostTellingLine(lines: readonly string[]): string {
  const texts = lines.map((line) => line.trim()).filter(Boolean);
  const errors = texts.filter((line) => /FATAL|PANIC|ERROR|error|cannot/.test(line));
  return errors.at(-1) ?? texts.at(-1) ?? 'no output';
}

/** @param error anything that was thrown while the server in `folder` was started */
export function explainError(error: unknown, folder: string): EmbeddedPostgresError {
  if (error instanceof EmbeddedPostgresError) return error;
  const { code, message, path } = error as NodeJS.ErrnoException;
  const [firstLine] = message.split('\n');
  if (code === INVALID_PASSWORD) {
    return new EmbeddedPostgresError(
      `The password in ${folder}.password does not belong to this server: restore the file`,
    );
  }
  if (UNUSABLE_PATH.has(code ?? '')) {
    const [reason] = message.split(',');
    return new EmbeddedPostgresError(
      `The embedded PostgreSQL cannot use ${path ?? folder} (${reason}): ` +
        'set DATA_DIR to a folder that this user may write, or set DATABASE_URL',
    );
  }
  return new EmbeddedPostgresError(
    `The embedded PostgreSQL in ${folder} does not start: ${firstLine}`,
  );
}
