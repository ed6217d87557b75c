/**
 * `npm run demo`: uses a running service as its users would, and checks its promises: no read is
 * older than what its user already knows, an ended token is rejected, and a retry with the same key
 * is the same order. Exits with 1 when a promise was broken or a request failed.
 */
import { parseArguments, parseWholeNumber } from '../../src/cli/arguments.js';
import { CommandError, runCommand } from '../../src/cli/command.js';
import { startProgress } from '../../src/cli/progress.js';
import { Random } from '../../test/support/random.js';
import { FIRST_NAMES, LAST_NAMES } from '../sample-data.js';
import { Client, Pacer } from './demo-client.js';
import { Meter } from './demo-meter.js';
import { type DemoContext, DemoUser } from './demo-user.js';

const USAGE = `npm run demo -- [--url URL] [--seconds N] [--users N]
  --url      the service (default http://127.0.0.1:3000)
  --seconds  how long, 1 to 3600 (default 60)
  --users    number of users at the same time, 1 to 200 (default 20)`;

const DEFAULT_URL = 'http://127.0.0.1:3000';
/** The service hashes two passwords at a time. */
const MAX_CONCURRENT_LOGINS = 4;
const MAX_USERNAME_LENGTH = 32;
const HEALTH_TIMEOUT_MS = 3_000;
const PROGRESS_INTERVAL_MS = 250;
/** Users may still log out for so long after the end. */
const LOGOUT_MS = 1_000;

async function run(args: string[]): Promise<number> {
  const { options } = parseArguments(args, { usage: USAGE, options: ['url', 'seconds', 'users'] });
  const seconds = parseWholeNumber('seconds', options.seconds, {
    min: 1,
    max: 3_600,
    byDefault: 60,
  });
  const userCount = parseWholeNumber('users', options.users, { min: 1, max: 200, byDefault: 20 });
  const url = await findService(options.url ?? DEFAULT_URL);
  const demo = new Demo(url);
  process.once('SIGINT', () => demo.stop());
  await demo.admitUsers(userCount);
  const activeSeconds = await demo.runFor(seconds);
  console.log(`\n${demo.meter.summarize(activeSeconds)}`);
  const pacing = demo.describePacing(activeSeconds);
  if (pacing !== undefined) console.log(pacing);
  if (demo.activeUsers.length === 0) throw new CommandError('no user could register and log in');
  return demo.meter.isClean ? 0 : 1;
}

/** @throws CommandError when the text is not a URL, or no Holdfast responds there */
async function findService(text: string): Promise<string> {
  const isHttpUrl = URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
  if (!isHttpUrl) {
    throw new CommandError(
      `--url must be an http:// or https:// URL such as ${DEFAULT_URL}, not "${text}"`,
      2,
    );
  }
  const url = text.replace(/\/+$/, '');
  const status = await fetch(`${url}/health/live`, {
    signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS),
  }).then(
    (response) => response.status,
    () => undefined,
  );
  if (status === 200) return url;
  const problem =
    status === undefined
      ? `no service responds at ${url}`
      : `another service responds at ${url} (status ${status})`;
  throw new CommandError(
    `${problem}: start it with "npm start" in another terminal, or name its address with --url`,
  );
}

/** One run: its users, their limits, and its end. */
class Demo {
  readonly meter = new Meter();
  readonly activeUsers: DemoUser[] = [];
  private readonly pacers: Pacer[] = [];
  private readonly context: DemoContext;
  /** As of `performance.now()`; 0 after {@link stop}. */
  private endsAt = Infinity;

  constructor(url: string) {
    const addressPacer = new Pacer({
      spreads: false,
      endsAt: () => (this.endsAt === 0 ? 0 : this.endsAt + LOGOUT_MS),
    });
    this.pacers.push(addressPacer);
    this.context = {
      client: new Client(url, this.meter),
      meter: this.meter,
      addressPacer,
      isOver: () => performance.now() >= this.endsAt,
    };
  }

  stop(): void {
    this.endsAt = 0;
  }

  /** Registers the users and logs them in, a few at a time. */
  async admitUsers(count: number): Promise<void> {
    const runId = Date.now();
    const users = Array.from({ length: count }, (_, index) => this.createUser(runId, index));
    const progress = await startProgress('Users arrive', count, 'users');
    await forEachConcurrently(users, MAX_CONCURRENT_LOGINS, async (user) => {
      if (this.context.isOver() || !(await user.arrive())) return;
      this.activeUsers.push(user);
      progress.update(this.activeUsers.length);
    });
    progress.stop();
  }

  /** @returns how many seconds the users were active */
  async runFor(seconds: number): Promise<number> {
    const startedAt = performance.now();
    const earlierRequests = this.meter.requestCount;
    if (!this.context.isOver()) this.endsAt = startedAt + seconds * 1000;
    const activeSeconds = (): number => Math.max(0.001, (performance.now() - startedAt) / 1000);
    const progress = await startProgress('Users at work', seconds, 's');
    const ticker = setInterval(() => {
      const requests = this.meter.requestCount - earlierRequests;
      const rate = Math.round(requests / activeSeconds());
      const { hitRatio, staleReadCount } = this.meter;
      progress.update(
        Math.floor(activeSeconds()),
        `${rate} requests/s, hit ratio ${hitRatio}, stale ${staleReadCount}`,
      );
    }, PROGRESS_INTERVAL_MS);
    await Promise.all(
      this.activeUsers.map(async (user) => {
        while (!this.context.isOver()) await user.act();
      }),
    );
    const total = activeSeconds();
    clearInterval(ticker);
    progress.stop();
    await forEachConcurrently(this.activeUsers, MAX_CONCURRENT_LOGINS, (user) => user.leave());
    return total;
  }

  /** How much the rate limit slowed the users down; undefined when hardly at all. */
  describePacing(activeSeconds: number): string | undefined {
    const waitedMs = this.pacers.reduce((sum, pacer) => sum + pacer.waitedMs, 0);
    if (waitedMs <= 1000) return undefined;
    const userMs = this.activeUsers.length * activeSeconds * 1000;
    const percent = Math.min(100, Math.round((100 * waitedMs) / userMs));
    return (
      `Paced        users waited ${percent} % of the time to stay within the rate limit of the ` +
      'service ' +
      '(RATE_LIMIT_PER_MINUTE=0 turns it off)'
    );
  }

  private createUser(runId: number, index: number): DemoUser {
    const random = new Random(runId).fork(String(index));
    const name = `${random.pick(FIRST_NAMES)}.${random.pick(LAST_NAMES).slice(0, 10)}`;
    const suffix = `${runId.toString(36)}${index.toString(36)}`;
    const pacer = new Pacer({ spreads: true, endsAt: () => this.endsAt });
    this.pacers.push(pacer);
    const username = `${name}.${suffix}`.slice(0, MAX_USERNAME_LENGTH);
    return new DemoUser(this.context, username, random, pacer);
  }
}

/** Runs `work` for each item, at most `maxConcurrent` at a time. */
async function forEachConcurrently<T>(
  items: readonly T[],
  maxConcurrent: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const remaining = items.values();
  // All workers take from one iterator, so that each item is taken once.
  const worker = async (): Promise<void> => {
    for (const item of remaining) await work(item);
  };
  await Promise.all(Array.from({ length: maxConcurrent }, worker));
}

void runCommand('demo', { USAGE, run }, process.argv.slice(2)).then((exitCode) => {
  process.exitCode = exitCode;
});
