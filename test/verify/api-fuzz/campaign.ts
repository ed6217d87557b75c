/**
 * Rounds of requests. In a round, each operation gets each kind of request (defects.ts). A failed
 * check stops fast-check, which then looks for a smaller request with the same failure.
 */
import fc, { type Arbitrary } from 'fast-check';
import type { DocumentedApi, Operation } from '../../support/documented-api.js';
import {
  type Reply,
  sendRequest,
  sendUnchanged,
  type WireRequest,
} from '../../support/http-client.js';
import { Random } from '../../support/random.js';
import { curlOf, type Finding, type Tally } from './checks.js';
import { type Kind, KINDS } from './defects.js';
import { type Exchange, isSuccess, judge } from './judge.js';
import { learn, type Probe } from './learning.js';
import { isSecured, type Prepared, ValidRequests } from './requests.js';
import { SchemaValues } from './values.js';
import { World } from './world.js';

/** Requests that fast-check may send to make one finding smaller. */
const MAX_SHRINK_REQUESTS = 80;
/** One success of so many is repeated without a session. */
const REPEATED_WITHOUT_SESSION = 6;
/** The service may close the connection before it has read all of these. */
const CLOSING_KINDS: ReadonlySet<string> = new Set(['enormous body', 'enormous headers']);
/** Reads every order there is. */
const EXPENSIVE_OPERATIONS: ReadonlySet<string> = new Set(['exportOrders']);

export interface CampaignOptions {
  readonly origin: string;
  readonly api: DocumentedApi;
  readonly tally: Tally;
  readonly seed: number;
  /** At least so many requests are sent, and at least one round. */
  readonly requests: number;
  /** Requests at the same time, each with objects of its own. */
  readonly workers: number;
  readonly onRound?: () => Promise<void>;
}

export async function runCampaign(options: CampaignOptions): Promise<void> {
  const random = new Random(options.seed);
  const target = { ...options, requests: options.requests / options.workers };
  const workers = Array.from(
    { length: options.workers },
    (_, index) => new Worker(target, random.fork(`worker ${index}`)),
  );
  await Promise.all(workers.map((worker, index) => worker.run(index)));
}

interface Subject {
  readonly operation: Operation;
  readonly kind: Kind;
}

class Worker {
  private readonly world: World;
  private readonly valid: ValidRequests;
  private sent = 0;
  private successes = 0;

  constructor(
    private readonly options: CampaignOptions,
    private readonly random: Random,
  ) {
    this.world = new World(options.origin);
    this.valid = new ValidRequests(options.api, new SchemaValues(options.api));
  }

  /** @param index of this worker: in the first round, each takes a part of the subjects */
  async run(index: number): Promise<void> {
    const { operations } = this.options.api;
    const { workers, requests, onRound } = this.options;
    const subjects = operations.flatMap((operation) =>
      KINDS.filter((kind) => kind.appliesTo(operation)).map((kind) => ({ operation, kind })),
    );
    const [first, ...others] = this.random.shuffled(subjects);
    if (first === undefined) return;
    const part = subjects.filter((_, position) => position % workers === index);
    await this.round(this.random.shuffled(part), true);
    await onRound?.();
    while (this.sent < requests) {
      await this.round(this.random.shuffled([first, ...others]), false);
      await onRound?.();
    }
  }

  private async round(subjects: readonly Subject[], isFirst: boolean): Promise<void> {
    for (const subject of subjects) {
      const isDone = !isFirst && this.sent >= this.options.requests;
      if (isDone) return;
      await this.explore(subject, isFirst);
    }
  }

  private async explore({ operation, kind }: Subject, isFirst: boolean): Promise<void> {
    const isExpensive = EXPENSIVE_OPERATIONS.has(operation.operationId);
    const usual = isExpensive || isFirst ? 1 : (kind.weight ?? 1);
    const runs = isFirst ? Math.max(usual, kind.minRuns ?? 1) : usual;
    const requests = fc.record({
      prepare: this.valid.of(operation),
      edit: kind.edits(operation, this.options.api),
    });
    await this.check(runs, requests, async ({ prepare, edit }) => {
      await this.world.prepare();
      const prepared = prepare(this.world);
      const verdict = edit(prepared, this.world);
      return await this.exchange(operation, kind.name, prepared, verdict);
    });
  }

  /** Runs one property. Each new finding is made smaller and kept. */
  private async check<T>(
    runs: number,
    values: Arbitrary<T>,
    find: (value: T) => Promise<Finding[]>,
  ): Promise<void> {
    const { tally } = this.options;
    const smallest: Finding[] = [];
    let shrinks = 0;
    const property = fc.asyncProperty(values, async (value) => {
      if (smallest.length > 0) shrinks++;
      if (shrinks > MAX_SHRINK_REQUESTS) return;
      const fresh = (await find(value)).filter((finding) => !tally.has(finding));
      if (fresh.length === 0) return;
      smallest.push(...fresh);
      throw new Error('a check failed');
    });
    await fc.check(property, { seed: this.random.between(1, 2 ** 31 - 1), numRuns: runs });
    // The last one of each defect is the smallest.
    for (const finding of smallest) tally.report(finding);
  }

  private async exchange(
    operation: Operation,
    kind: string,
    prepared: Prepared,
    verdict: Exchange['verdict'],
  ): Promise<Finding[]> {
    const { api, tally, origin } = this.options;
    const { draft } = prepared;
    const query = draft.query.length === 0 ? '' : `?${draft.query.join('&')}`;
    const headers: Record<string, string | string[] | number> = { ...draft.headers };
    if (draft.body !== undefined) headers['Content-Length'] = draft.body.length;
    const path = draft.path + query;
    const request: WireRequest = { method: draft.method, path, headers, payload: draft.body };
    const finding = (failure: Pick<Finding, 'check' | 'details'>): Finding => ({
      ...failure,
      operation: operation.operationId,
      kind,
      curl: curlOf(origin, request),
    });
    this.sent++;
    tally.countRequest(operation.operationId);
    let reply: Reply;
    try {
      reply = await sendUnchanged(origin, request);
    } catch (error) {
      if (CLOSING_KINDS.has(kind)) return [];
      return [
        finding({ check: 'content_type_conformance', details: `no answer: ${String(error)}` }),
      ];
    }
    const exchange: Exchange = { operation, kind, prepared, verdict, reply };
    const failures = judge(api, exchange, tally);
    const probes = await learn(this.world, exchange);
    for (const probe of [...probes, ...this.withoutSession(exchange)]) {
      const details = await this.probe(probe);
      if (details !== undefined) failures.push({ check: probe.check, details });
    }
    return failures.map(finding);
  }

  /** Sometimes, a success is repeated without a session: it must not be one again. */
  private withoutSession({ operation, prepared, reply }: Exchange): Probe[] {
    const isRead = prepared.draft.method === 'GET';
    if (!isSecured(operation) || !isSuccess(reply) || !isRead) return [];
    this.successes++;
    if (this.successes % REPEATED_WITHOUT_SESSION !== 0) return [];
    const query = prepared.draft.query.length === 0 ? '' : `?${prepared.draft.query.join('&')}`;
    const { operationId } = operation;
    const path = prepared.draft.path + query;
    return [{ check: 'ignored_auth', operationId, path, token: undefined, status: 401 }];
  }

  /** @returns what is wrong */
  private async probe({ check, operationId, path, token, status }: Probe) {
    const { tally, origin } = this.options;
    this.sent++;
    tally.countRequest(operationId);
    tally.countCheck(check);
    const reply = await sendRequest(origin + path, 'GET', { token });
    if (reply.status === status) return undefined;
    return `then GET ${path} is ${reply.status}, not ${status}: ${reply.text.slice(0, 300)}`;
  }
}
