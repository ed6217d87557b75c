/**
 * All phases against one database: requests from the document, broken connections, a service with a
 * rate limit, and what the log and the memory of the process say at the end.
 */
import { randomUUID } from 'node:crypto';
import { DocumentedApi, type OpenApi } from '../../support/documented-api.js';
import { requestBody, sendRequest } from '../../support/http-client.js';
import { runCampaign } from './campaign.js';
import { type Check, Tally } from './checks.js';
import { isProblem } from './judge.js';
import { runRawPhase } from './raw-requests.js';
import { FuzzedService } from './service.js';

export interface PhaseOptions {
  /** The compiled copy (scripts/compile.mjs). */
  readonly folder: string;
  /** A migrated database. */
  readonly databaseUrl: string;
  readonly seed: number;
  readonly requests: number;
  readonly workers: number;
  /** Raw connections with random damage. */
  readonly damaged: number;
  readonly onRound?: (tally: Tally) => void;
}

export interface FuzzResult {
  /** Of the document. */
  readonly operations: readonly string[];
  readonly tally: Tally;
  readonly residentMiB: { readonly early: number; readonly atEnd: number };
  readonly logLines: number;
}

/** The service needs about 200 MiB. Past this, something is kept for each request. */
export const MAX_RESIDENT_MIB = 600;
/** 503 with Retry-After is an honest answer of a busy machine, if it is rare. */
const MAX_UNAVAILABLE_SHARE = 0.01;
const RATE_LIMIT = 20;
const MIB = 1024 * 1024;

/** Runs all phases. Findings are in the tally. */
export async function runPhases(options: PhaseOptions): Promise<FuzzResult> {
  const { folder, databaseUrl, seed } = options;
  const tally = new Tally();
  const service = await FuzzedService.start(folder, databaseUrl);
  const { origin } = service;
  let early: number | undefined;
  let atEnd = NaN;
  let operations: readonly string[] = [];
  try {
    const document = (await requestBody(`${origin}/docs/openapi.json`, 'GET')) as OpenApi;
    const api = new DocumentedApi(document);
    operations = api.operations.map(({ operationId }) => operationId);
    await runRawPhase({ origin, tally, seed, damaged: options.damaged });
    const onRound = async (): Promise<void> => {
      options.onRound?.(tally);
      early ??= (await service.residentBytes()) / MIB;
    };
    await runCampaign({ ...options, origin, api, tally, onRound });
    atEnd = (await service.residentBytes().catch(() => NaN)) / MIB;
  } finally {
    await service.stop();
    judgeProcess(service, tally, atEnd);
  }
  await runRateLimitPhase(options, tally);
  const residentMiB = { early: early ?? atEnd, atEnd };
  return { operations, tally, residentMiB, logLines: service.lineCount };
}

function judgeProcess(service: FuzzedService, tally: Tally, residentMiB: number): void {
  const expectTrue = expecting(tally, 'the process');
  const [errorLine] = service.errorLines;
  tally.countCheck('log-errors', service.lineCount - 1);
  expectTrue('log-errors', errorLine === undefined, String(errorLine));
  const [secretLine] = service.secretLines;
  tally.countCheck('log-secrets', service.lineCount - 1);
  expectTrue('log-secrets', secretLine === undefined, String(secretLine));
  const isBounded = residentMiB <= MAX_RESIDENT_MIB;
  expectTrue('bounded-memory', isBounded, `${residentMiB} MiB, at most ${MAX_RESIDENT_MIB}`);
  const share = tally.unavailable / Math.max(1, tally.requests);
  const details = `${tally.unavailable} answers with 503`;
  expectTrue('not_a_server_error', share <= MAX_UNAVAILABLE_SHARE, details);
}

const expecting =
  (tally: Tally, operation: string) =>
  (check: Check, holds: boolean, details: string): void => {
    tally.countCheck(check);
    const curl = '(see the log)';
    if (!holds) tally.report({ check, operation, kind: 'at the end', details, curl });
  };

/** A service with a small limit: past it, every request is refused in the documented form. */
async function runRateLimitPhase(
  { folder, databaseUrl }: PhaseOptions,
  tally: Tally,
): Promise<void> {
  const env = { RATE_LIMIT_PER_MINUTE: String(RATE_LIMIT) };
  const service = await FuzzedService.start(folder, databaseUrl, env);
  const expectTrue = expecting(tally, 'a service with a rate limit');
  try {
    const api = new DocumentedApi(
      (await requestBody(`${service.origin}/docs/openapi.json`, 'GET')) as OpenApi,
    );
    const operation = api.operation('register');
    const headers = { 'X-Forwarded-For': '192.0.2.1' };
    let limited = 0;
    // Twice the limit: a window may end in between.
    for (let count = 0; count < 2 * RATE_LIMIT + 2; count++) {
      const body = { username: randomUUID() };
      const url = `${service.origin}/v1/users`;
      const reply = await sendRequest(url, 'POST', { body, headers });
      tally.countRequest('register');
      const deviations = api.deviationsOf(operation, reply);
      expectTrue('rate-limit', deviations.length === 0, JSON.stringify(deviations));
      const hasPolicy = reply.headers.has('ratelimit-policy');
      expectTrue('rate-limit', hasPolicy, `no RateLimit-Policy: ${reply.status}`);
      if (reply.status !== 429) continue;
      limited++;
      const isFormed = isProblem(reply) && reply.headers.has('retry-after');
      expectTrue('rate-limit', isFormed, reply.text);
    }
    expectTrue('rate-limit', limited > 0, 'no request was limited');
  } finally {
    await service.stop();
  }
}
