/** Log lines in both formats: text of a caller cannot forge a line or act on a terminal. */
import { describe, expect, it } from '@jest/globals';
import pg from 'pg';
import { createPino, PinoLogger } from '../../../src/platform/telemetry/logger.js';
import { startApp } from '../../support/app.js';

const FORMATS = ['json', 'pretty'] as const;

/** Texts with control characters, by what they try. */
const HOSTILE_TEXTS = {
  'a second line of JSON': 'a\n{"level":"info","msg":"forged"}',
  'a second line of text': 'a\r\n[12:00:00.000] INFO: forged',
  'escape sequences': '\u001b[2J\u001b[31mred\u001b]0;title\u0007',
  'C1 control characters': 'c1 \u009b31m \u0085 next',
  'Unicode line separators': 'separators \u2028 \u2029',
  'NUL, DEL, tab and backspace': 'nul \u0000 del \u007f tab \t back \b',
  'a carriage return': 'bare\rover',
};

const CONTROL_CHARACTER = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/;

/** A logger and the lines that it has written. */
function createTestLogger(logFormat: (typeof FORMATS)[number]): {
  logger: PinoLogger;
  text: () => string;
} {
  const lines: string[] = [];
  const destination = { write: (line: string) => void lines.push(line) };
  const logger = new PinoLogger(createPino({ logLevel: 'trace', logFormat }, destination));
  return { logger, text: () => lines.join('') };
}

describe.each(FORMATS)('the log in format %s', (logFormat) => {
  it.each(Object.entries(HOSTILE_TEXTS))(
    'writes one line without control characters for each entry with %s',
    (_, hostileText) => {
      const { logger, text } = createTestLogger(logFormat);

      logger.log(hostileText, 'Test');
      logger.error(hostileText, 'Test');
      logger.warn({ text: hostileText }, 'Test');

      expect(text().trimEnd().split('\n')).toHaveLength(3);
      expect(text().replaceAll('\n', '')).not.toMatch(CONTROL_CHARACTER);
      const [firstWord] = /[a-z]{3,}/.exec(hostileText) ?? [];
      expect(text()).toContain(firstWord);
    },
  );

  it.each([
    ['thrown', (error: Error) => error],
    ['as text', (error: Error) => `id GET /path: ${error.stack}`],
  ])('keeps the frames of a stack as lines, but no line of its message (%s)', (_, toMessage) => {
    const { logger, text } = createTestLogger(logFormat);

    logger.error(toMessage(new Error('bad\n[12:00:00.000] INFO: forged \u001b[31m')), 'Http');

    expect(
      text()
        .split('\n')
        .filter((line) => line.startsWith('[12:00')),
    ).toEqual([]);
    expect(text().replaceAll('\n', '')).not.toMatch(CONTROL_CHARACTER);
    expect(text()).toContain('    at ');
  });

  it('contains nothing of a request that failed inside the service', async () => {
    const lines: string[] = [];
    const env = { LOG_LEVEL: 'trace', LOG_FORMAT: logFormat };
    const app = await startApp(env, undefined, { write: (line) => void lines.push(line) });
    const sql = new pg.Client({ connectionString: app.databaseUrl });
    await sql.connect();
    try {
      await sql.query('ALTER TABLE users RENAME TO hidden');
      lines.length = 0;
      const hostileUrl = '%0a%0d%1b[31mforged%e2%80%a8%c2%9b';
      const headers = {
        'User-Agent': 'x\u009b31m[31m',
        'X-Request-Id': 'forged%0a',
        Referer: hostileUrl,
      };
      const logIn = (username: string, password: string): ReturnType<typeof app.call> =>
        app.call('POST', '/v1/sessions', { headers, body: { username, password } });

      const replies = [
        await logIn('x\nforged\u001b[31m', 'forged'),
        await logIn('forged-name', 'forged password'),
        await app.call('GET', `/v1/users/me?${hostileUrl}`, { headers, token: 'forged' }),
        await app.call('GET', `/v1/orders/${hostileUrl}`, { headers }),
      ];

      expect(replies.map(({ status }) => status)).toContain(500);
      const written = lines.join('');
      expect(written).not.toBe('');
      expect(written.replaceAll('\n', '')).not.toMatch(CONTROL_CHARACTER);
      expect(written).not.toContain('forged');
    } finally {
      await sql.end();
      await app.close();
    }
  });
});
