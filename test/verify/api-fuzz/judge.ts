/** The checks on one answer (checks.ts). */
import type { DocumentedApi, Operation } from '../../support/documented-api.js';
import type { Reply } from '../../support/http-client.js';
import { INTERNAL_TEXT } from '../../support/internal-text.js';
import type { Check, Tally } from './checks.js';
import type { Verdict } from './defects.js';
import { isSecured, type Prepared } from './requests.js';

/** A request with its answer. */
export interface Exchange {
  readonly operation: Operation;
  readonly kind: string;
  readonly prepared: Prepared;
  readonly verdict: Verdict;
  readonly reply: Reply;
}

export interface Failure {
  readonly check: Check;
  readonly details: string;
}

/** Answers that call a request invalid. 428 only without If-Match, which valid requests have. */
const CALLED_INVALID = new Set([400, 405, 406, 408, 411, 413, 414, 415, 417, 428, 431, 501]);
/** Those that protect data: the API has no pages. */
const SECURITY_HEADERS = [
  'content-security-policy',
  'cross-origin-resource-policy',
  'referrer-policy',
  'x-content-type-options',
];
const MAX_SHOWN_CHARACTERS = 300;

export const isSuccess = ({ status }: Reply): boolean =>
  (status >= 200 && status < 300) || status === 304;

const isUnavailable = ({ status, headers }: Reply): boolean =>
  status === 503 && headers.has('retry-after');

/** What fails, of all checks that apply to one answer. */
export function judge(api: DocumentedApi, exchange: Exchange, tally: Tally): Failure[] {
  const failures: Failure[] = [];
  const { reply } = exchange;
  const expectTrue = (check: Check, holds: boolean, what: string): void => {
    tally.countCheck(check);
    if (!holds) failures.push({ check, details: `${what}: ${summaryOf(reply)}` });
  };
  if (isUnavailable(reply)) tally.unavailable++;
  const isServerError = reply.status >= 500 && reply.status !== 501 && !isUnavailable(reply);
  expectTrue('not_a_server_error', !isServerError, 'server error');
  judgeDocumentation(api, exchange, tally, failures);
  judgeForm(exchange, expectTrue);
  if (!isUnavailable(reply)) judgeVerdict(api, exchange, expectTrue);
  return failures;
}

type Expect = (check: Check, holds: boolean, what: string) => void;

const summaryOf = ({ status, text }: Reply): string =>
  `${status} ${text.slice(0, MAX_SHOWN_CHARACTERS)}`;

const CONFORMANCES = [
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
] as const;

function judgeDocumentation(
  api: DocumentedApi,
  { operation, prepared, verdict, reply }: Exchange,
  tally: Tally,
  failures: Failure[],
): void {
  // No document describes the answers to OPTIONS, and HEAD has no body to compare.
  if (prepared.draft.method === 'OPTIONS') return;
  for (const check of CONFORMANCES) tally.countCheck(check);
  failures.push(...api.deviationsOf(operation, reply, verdict.isStrange === true));
}

/** Errors are problems, whatever the request was. Every answer has the security headers. */
function judgeForm({ prepared, reply }: Exchange, expectTrue: Expect): void {
  const { status, headers, text, body } = reply;
  const missing = SECURITY_HEADERS.filter((name) => !headers.has(name));
  expectTrue('security-headers', missing.length === 0, `without ${missing.join(', ')}`);
  const requestId = headers.get('x-request-id');
  const isError = status >= 400;
  if (!isError) {
    expectTrue('problem-form', requestId !== null, 'no X-Request-Id');
    return;
  }
  if (prepared.draft.method === 'HEAD') return;
  expectTrue('internal-text', !INTERNAL_TEXT.test(text), 'internal text');
  expectTrue('problem-form', isProblem(reply), 'not a problem');
  const { requestId: idOfBody } = (body ?? {}) as { requestId?: unknown };
  expectTrue('problem-form', idOfBody === requestId, 'requestId is not X-Request-Id');
  const isUnauthenticated = status === 401;
  if (isUnauthenticated) {
    const challenge = headers.get('www-authenticate') ?? '';
    expectTrue('problem-form', challenge.startsWith('Bearer'), 'no WWW-Authenticate');
  }
}

/** Whether the body has the members of every problem, and they fit the status. */
export function isProblem({ status, headers, body }: Reply): boolean {
  const problem = (body ?? {}) as Record<string, unknown>;
  const hasType = headers.get('content-type') === 'application/problem+json; charset=utf-8';
  const members = ['type', 'title', 'detail', 'instance', 'code', 'requestId'];
  const hasMembers = members.every((name) => typeof problem[name] === 'string');
  const fits = problem.status === status && problem.type === `/problems/${String(problem.code)}`;
  return hasType && hasMembers && fits && headers.get('cache-control') === 'no-store';
}

function judgeVerdict(api: DocumentedApi, exchange: Exchange, expectTrue: Expect): void {
  const { operation, kind, verdict, reply } = exchange;
  const { expects, statuses, isAuthentic = true } = verdict;
  const { status } = reply;
  if (expects === 'rejected') {
    const check = checkOf(kind, isAuthentic);
    const isRejected = status >= 400 && status < 500;
    // The caller's rights are looked at before the body.
    const isUnauthorized = isSecured(operation) && [401, 403, 404].includes(status);
    const isAsExpected = statuses
      ? statuses.includes(status) || isUnauthorized
      : isRejected || status === 501;
    expectTrue(check, isAsExpected, `not refused as expected (${statuses?.join() ?? '4xx'})`);
  }
  if (statuses?.includes(405)) judgeAllow(api, exchange, expectTrue);
  if (expects === 'accepted') {
    expectTrue('positive_data_acceptance', !CALLED_INVALID.has(status), 'called invalid');
    const isLive = isSecured(operation) && isAuthentic;
    if (isLive) expectTrue('positive_data_acceptance', status !== 401, 'the session is live');
    judgeExistence(exchange, expectTrue);
  }
  judgeOwnership(exchange, expectTrue);
  if (kind === 'OPTIONS') {
    const isAnswered = status === 204 && reply.headers.has('allow');
    expectTrue('unsupported_method', isAnswered, 'OPTIONS without Allow');
  }
  const isOpened = isSecured(operation) && !isAuthentic && isSuccess(reply);
  if (isSecured(operation)) expectTrue('ignored_auth', !isOpened, 'served without a session');
}

const CHECK_OF_KIND: Readonly<Record<string, Check>> = {
  'missing header': 'missing_required_header',
  'method that the path lacks': 'unsupported_method',
};

function checkOf(kind: string, isAuthentic: boolean): Check {
  if (!isAuthentic) return 'ignored_auth';
  return CHECK_OF_KIND[kind] ?? 'negative_data_rejection';
}

/** `Allow` names the documented methods of the path, and those that every resource has. */
function judgeAllow(api: DocumentedApi, { operation, reply }: Exchange, expectTrue: Expect): void {
  const allowed = (reply.headers.get('allow') ?? '').split(', ');
  const documented = api.operations
    .filter(({ path }) => path === operation.path)
    .map(({ method }) => method);
  const derived = documented.includes('GET') ? ['HEAD', 'OPTIONS'] : ['OPTIONS'];
  const expected = [...documented, ...derived].sort().join(', ');
  const holds = allowed.sort().join(', ') === expected;
  expectTrue('unsupported_method', holds, `Allow is not ${expected}`);
}

/** What this worker made, it finds again. */
function judgeExistence({ prepared, reply }: Exchange, expectTrue: Expect): void {
  const { owner, caller, draft } = prepared;
  const isOwn = owner !== undefined && owner === caller;
  const asksForPast = draft.query.some((pair) => pair.startsWith('at='));
  if (!isOwn || asksForPast) return;
  expectTrue('ensure_resource_availability', reply.status !== 404, 'the own object is missing');
}

/** A plain user reaches own objects only. */
function judgeOwnership({ prepared, reply }: Exchange, expectTrue: Expect): void {
  const { owner, caller, draft } = prepared;
  const isPlain = caller?.roles.join() === 'user';
  const isForeign = owner !== undefined && owner !== caller;
  const asksForMethods = draft.method === 'OPTIONS';
  if (!isPlain || !isForeign || asksForMethods) return;
  expectTrue('foreign-object', !isSuccess(reply), "another user's object");
}
