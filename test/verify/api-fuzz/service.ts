/** The service in a process of its own, and what its log and its metrics say. */
import { join } from 'node:path';
import { ADMIN } from '../../support/app.js';
import { hasEnded, type RunningProgram, startProgram } from '../../support/child-process.js';
import { PASSWORD } from '../../support/factories.js';
import { requestBody } from '../../support/http-client.js';
import { UNCOMMON_PASSWORD } from './values.js';

/** Of pino, and their names. */
const ERROR_LEVELS: ReadonlySet<string> = new Set(['50', '60', 'error', 'fatal']);
const STACK = /\n\s+at \S/;
/** A session token, whoever has it. */
const TOKEN = /hf_[\w-]{43}/;
/** Every password that this program sends begins with one of these. */
const PASSWORDS = [UNCOMMON_PASSWORD, PASSWORD, ADMIN.password];
const MAX_KEPT_LINES = 20;

export class FuzzedService {
  private readonly badLines: string[] = [];
  private readonly linesWithSecrets: string[] = [];
  lineCount = 0;
  private log = '';

  private constructor(private readonly program: RunningProgram) {
    program.child.stdout?.on('data', (text: string) => this.readLog(text));
  }

  /**
   * @param folder the compiled copy (scripts/compile.mjs)
   * @param databaseUrl migrated
   */
  static async start(
    folder: string,
    databaseUrl: string,
    env: Readonly<Record<string, string>> = {},
  ): Promise<FuzzedService> {
    const program = await startProgram({
      command: process.execPath,
      args: [join(folder, 'test/verify/service-process.js')],
      env: {
        DATABASE_URL: databaseUrl,
        MIGRATIONS: 'manual',
        PORT: '0',
        LOG_FORMAT: 'json',
        LOG_LEVEL: 'info',
        NODE_ENV: 'production',
        RATE_LIMIT_PER_MINUTE: '0',
        TRUST_PROXY: '127.0.0.1',
        TEST_HASHING: 'quick',
        ADMIN_USERNAME: ADMIN.username,
        ADMIN_PASSWORD: ADMIN.password,
        ...env,
      },
      readyPattern: /API (http:\S+)\/v1/,
    });
    return new FuzzedService(program);
  }

  get origin(): string {
    return this.program.ready[1] as string;
  }

  get isAlive(): boolean {
    return !hasEnded(this.program.child);
  }

  /** Lines of the level ERROR, and lines with a stack. */
  get errorLines(): readonly string[] {
    return this.badLines;
  }

  /** Lines with a token or a password. */
  get secretLines(): readonly string[] {
    return this.linesWithSecrets;
  }

  /** Bytes of memory that the process has now (RSS). */
  async residentBytes(): Promise<number> {
    const metrics = String(await requestBody(`${this.origin}/metrics`, 'GET'));
    return Number(/^process_resident_memory_bytes (\S+)/m.exec(metrics)?.[1]);
  }

  stop(): Promise<void> {
    return this.program.stop();
  }

  private readLog(text: string): void {
    const lines = (this.log + text).split('\n');
    this.log = lines.pop() ?? '';
    for (const line of lines) this.readLine(line);
  }

  private readLine(line: string): void {
    this.lineCount++;
    const hasSecret = TOKEN.test(line) || PASSWORDS.some((password) => line.includes(password));
    if (hasSecret) keep(this.linesWithSecrets, line);
    if (isErrorLine(line)) keep(this.badLines, line);
  }
}

function keep(lines: string[], line: string): void {
  if (lines.length < MAX_KEPT_LINES) lines.push(line);
}

/** A line that is not JSON, e.g. of a crash, counts as an error. */
function isErrorLine(line: string): boolean {
  try {
    const { level, msg } = JSON.parse(line) as { level?: unknown; msg?: unknown };
    return ERROR_LEVELS.has(String(level)) || STACK.test(String(msg));
  } catch {
    return !line.startsWith('ready: API');
  }
}
