/**
 * What a storm of logins does to everyone else: cached reads at a fixed rate, in rounds with and
 * without logins beside them; the ratio of their 99th percentiles counts. Then the times of failed
 * logins, for usernames that exist and for usernames that do not.
 */
import { mkdtemp } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBuiltService } from '../../support/built-service.js';
import { type Reply, requestBody, sendRequest } from '../../support/http-client.js';
import { percentile } from '../../support/percentile.js';
import { callOf, parseNumbers, usageOf } from '../../support/program-table.js';
import { startRedis } from '../../support/redis.js';
import { describeMachine } from '../machine.js';
import { markdownTable, writePage } from '../page.js';
import { timeOf } from '../rounds.js';

const DEFAULTS = { seconds: 5, rounds: 4, reads: 300, logins: 50 } as const;
type Options = Record<keyof typeof DEFAULTS, number>;

const CALL = 'npm run bench -- logins';
export const USAGE = `${usageOf(CALL, DEFAULTS)}
--reads and --logins are requests a second. Needs the build: npm run build.`;

const PASSWORD = 'a bench made of old oak';
const WRONG_PASSWORD = 'ten tall ships at anchor';
const USER_COUNT = 20;
const FAILED_LOGINS = 25;
const WARM_UP_SECONDS = 2;
/** Until the logins that still wait when a storm ends have been hashed. */
const QUIET_MS = 3_000;

interface Answer {
  readonly status: number;
  /** Milliseconds. */
  readonly took: number;
}

interface Round {
  readonly quietReads: readonly Answer[];
  readonly stormReads: readonly Answer[];
  readonly logins: readonly Answer[];
}

interface FailedLogins {
  readonly wrongPassword: readonly number[];
  readonly unknownUser: readonly number[];
}

export async function run(argv: string[]): Promise<number> {
  const options = parseNumbers(argv, USAGE, DEFAULTS);
  const where = await describeMachine();
  const redis = await startRedis();
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-bench-'));
  const service = await startBuiltService({
    DATA_DIR: dataDir,
    REDIS_URL: redis.url,
    RATE_LIMIT_PER_MINUTE: '0',
  });
  try {
    const client = await Client.create(service.url);
    const rounds = await measureRounds(client, options);
    await sleep(QUIET_MS);
    const failedLogins = await measureFailedLogins(client);
    await writePage('logins', pageOf(rounds, failedLogins, options, where));
  } finally {
    await service.stop();
    await redis.stop();
  }
  return 0;
}

/** The users of the benchmark, one of them with a session. */
class Client {
  private constructor(
    private readonly url: string,
    private readonly usernames: readonly string[],
    private readonly token: string,
  ) {}

  static async create(url: string): Promise<Client> {
    const usernames = Array.from({ length: USER_COUNT }, (_, index) => `bench-${index}`);
    for (const username of usernames) {
      const body = { username, email: `${username}@example.com`, password: PASSWORD };
      await requestBody(`${url}/v1/users`, 'POST', { body });
    }
    const login = { body: { username: usernames[0], password: PASSWORD } };
    const { token } = (await requestBody(`${url}/v1/sessions`, 'POST', login)) as { token: string };
    return new Client(url, usernames, token);
  }

  username(index: number): string {
    return this.usernames[index % this.usernames.length] as string;
  }

  read(): Promise<Reply> {
    return sendRequest(`${this.url}/v1/users/me`, 'GET', { token: this.token });
  }

  logIn(username: string, password = PASSWORD): Promise<Reply> {
    return sendRequest(`${this.url}/v1/sessions`, 'POST', { body: { username, password } });
  }
}

/** Sends `perSecond` requests a second, on time, whether or not earlier ones were answered. */
async function sendAtRate(
  perSecond: number,
  seconds: number,
  send: (index: number) => Promise<Reply>,
): Promise<Answer[]> {
  const began = performance.now();
  const answers: Promise<Answer>[] = [];
  for (let index = 0; index < perSecond * seconds; index++) {
    const waitMs = began + (index * 1_000) / perSecond - performance.now();
    if (waitMs > 0) await sleep(waitMs);
    const sentAt = performance.now();
    const answer = send(index).then(({ status }) => ({
      status,
      took: performance.now() - sentAt,
    }));
    answers.push(answer);
  }
  return Promise.all(answers);
}

async function measureRounds(client: Client, options: Options): Promise<Round[]> {
  const { seconds, reads, logins } = options;
  const read = (): Promise<Reply> => client.read();
  const logIn = (index: number): Promise<Reply> => client.logIn(client.username(index));
  await sendAtRate(reads, WARM_UP_SECONDS, read);
  await sendAtRate(logins, WARM_UP_SECONDS, logIn);
  const rounds: Round[] = [];
  for (let number = 0; number < options.rounds; number++) {
    await sleep(QUIET_MS);
    const quietReads = await sendAtRate(reads, seconds, read);
    const [stormReads, answeredLogins] = await Promise.all([
      sendAtRate(reads, seconds, read),
      sendAtRate(logins, seconds, logIn),
    ]);
    const unanswered = [...quietReads, ...stormReads].filter(({ status }) => status !== 200);
    if (unanswered.length > 0) throw new Error(`${unanswered.length} reads were not answered`);
    rounds.push({ quietReads, stormReads, logins: answeredLogins });
  }
  return rounds;
}

/** One after the other, the two kinds in turn. */
async function measureFailedLogins(client: Client): Promise<FailedLogins> {
  const wrongPassword: number[] = [];
  const unknownUser: number[] = [];
  for (let index = 0; index < FAILED_LOGINS; index++) {
    const fail = async (username: string): Promise<void> => {
      const { status } = await client.logIn(username, WRONG_PASSWORD);
      if (status !== 401) throw new Error(`A failed login was answered with ${status}, not 401`);
    };
    wrongPassword.push(await timeOf(() => fail(client.username(index))));
    unknownUser.push(await timeOf(() => fail(`nobody-${index}`)));
  }
  return { wrongPassword, unknownUser };
}

const tookOf = (answers: readonly Answer[]): number[] => answers.map(({ took }) => took);

const p99Ratio = (storm: readonly Answer[], quiet: readonly Answer[]): number =>
  percentile(tookOf(storm), 0.99) / percentile(tookOf(quiet), 0.99);

function pageOf(
  rounds: readonly Round[],
  failedLogins: FailedLogins,
  options: Options,
  where: string,
): string {
  const quiet = rounds.flatMap(({ quietReads }) => quietReads);
  const storm = rounds.flatMap(({ stormReads }) => stormReads);
  const logins = rounds.flatMap((round) => round.logins);
  const countOf = (status: number): number =>
    logins.filter((login) => login.status === status).length;
  const ratios = rounds.map(({ stormReads, quietReads }) => p99Ratio(stormReads, quietReads));
  const head = ['', 'requests', 'p50 ms', 'p99 ms'];
  const row = (name: string, took: readonly number[]): string[] => {
    const shares = [0.5, 0.99].map((share) => percentile(took, share).toFixed(1));
    return [name, String(took.length), ...shares];
  };
  return `# Reads during a storm of logins

\`${callOf(CALL, options)}\`

${where}, ${loadavg()[0]?.toFixed(1)} at its end.

One process with Redis answers ${options.reads} cached reads a second, in turn with and without
${options.logins} logins a second beside them. Each request is sent on time, whether or not those
before it were answered. The client, the service, PostgreSQL and Redis share the machine.

${markdownTable(head, [
  row('cached reads alone', tookOf(quiet)),
  row(`cached reads beside ${options.logins} logins a second`, tookOf(storm)),
])}

Ratio of the 99th percentiles: **${p99Ratio(storm, quiet).toFixed(2)}** (by round:
${ratios.map((ratio) => ratio.toFixed(2)).join(', ')}). Of ${logins.length} logins ${countOf(201)}
were answered with 201 and ${countOf(503)} were shed with 503.

Failed logins, one after the other:

${markdownTable(head, [
  row('wrong password', failedLogins.wrongPassword),
  row('unknown username', failedLogins.unknownUser),
])}
`;
}
