/** A client that reads what customers own, on any node, and records what it sees. */
import type { Reply } from '../../support/http-client.js';
import type { Random } from '../../support/random.js';
import { pickWeighted } from '../chaos/round-subjects.js';
import { type Caller, codeOf } from './caller.js';
import { PAGE_SIZE } from './checker.js';
import type { Customer } from './customer.js';
import type { Recording } from './history.js';

/** Searches concern the newest names of a user. */
const MAX_RECENT_NAMES = 3;

/** One request and its answer. */
interface Exchange {
  /** For people. */
  readonly request: string;
  readonly reply: Reply;
  readonly begin: number;
  readonly end: number;
}

interface Row {
  readonly id: string;
  readonly version: number;
}

export class Reader {
  /** The entity tags that it knows, by resource. */
  private readonly tags = new Map<string, string>();

  constructor(
    private readonly caller: Caller,
    private readonly recording: Recording,
    private readonly random: Random,
    private readonly customers: readonly Customer[],
    /** Of an administrator. */
    private readonly adminToken: string,
  ) {}

  async read(): Promise<void> {
    const { random } = this;
    const customer = random.pick(this.customers);
    const action = pickWeighted<() => Promise<void>>(
      [
        [0.4, () => this.readOrder(customer)],
        [0.1, () => this.readOrders(customer)],
        [0.15, () => this.readUser(customer)],
        [0.15, () => this.readList(customer)],
        [0.1, () => this.search(customer)],
        [0.1, () => this.useSession(customer)],
      ],
      random,
    );
    await action();
  }

  private async readOrder({ orders, token }: Customer): Promise<void> {
    if (orders.length === 0) return;
    // The newest ones change.
    const { id } = this.random.pick(orders.slice(-10));
    await this.readResource(id, `/v1/orders/${id}`, token);
  }

  private async readUser({ id, token }: Customer): Promise<void> {
    const usesAdmin = this.random.chance(0.5);
    await this.readResource(id, `/v1/users/${id}`, usesAdmin ? this.adminToken : token);
  }

  private async readResource(resource: string, path: string, token: string): Promise<void> {
    const knownTag = this.random.chance(0.5) ? this.tags.get(resource) : undefined;
    const headers: Record<string, string> =
      knownTag === undefined ? {} : { 'If-None-Match': knownTag };
    const exchange = await this.exchange(path, token, headers, [200, 304, 404]);
    if (!exchange) return;
    const { request, reply, begin, end } = exchange;
    const etag = reply.headers.get('etag') ?? undefined;
    if (etag !== undefined) this.tags.set(resource, etag);
    const versions: Record<number, number> = {
      200: Number((reply.body as Row).version),
      304: Number(knownTag?.replaceAll('"', '')),
      404: 0,
    };
    const version = versions[reply.status] as number;
    const isFound = reply.status !== 404;
    const body = reply.status === 200 ? reply.text : undefined;
    const tag = isFound ? (etag ?? 'none') : undefined;
    this.recording.reads.push({ resource, request, version, etag: tag, body, begin, end });
  }

  private async readOrders({ orders, token }: Customer): Promise<void> {
    if (orders.length === 0) return;
    const ids = orders.slice(-5).map(({ id }) => id);
    const exchange = await this.exchange(`/v1/orders?ids=${ids.join(',')}`, token);
    if (!exchange) return;
    const found = new Map(rowsOf(exchange.reply).map((row) => [row.id, row]));
    for (const id of ids) this.recordRow(id, found.get(id)?.version ?? 0, exchange);
  }

  private async readList({ id: owner, token }: Customer): Promise<void> {
    const path = `/v1/users/${owner}/orders?limit=${PAGE_SIZE}`;
    const exchange = await this.exchange(path, token);
    if (!exchange) return;
    const { request, reply, begin, end } = exchange;
    const rows = rowsOf(reply);
    const orders = rows.map(({ id }) => id);
    this.recording.lists.push({ owner, request, orders, begin, end });
    for (const { id, version } of rows) this.recordRow(id, version, exchange);
  }

  private async search({ names }: Customer): Promise<void> {
    const name = this.random.pick(names.slice(-MAX_RECENT_NAMES));
    const exchange = await this.exchange(`/v1/users?username=${name}`, this.adminToken);
    if (!exchange) return;
    const { request, reply, begin, end } = exchange;
    const [row] = rowsOf(reply);
    this.recording.searches.push({ name, request, user: row?.id, begin, end });
    if (row) this.recordRow(row.id, row.version, exchange);
  }

  private async useSession({ sessions }: Customer): Promise<void> {
    if (sessions.length === 0) return;
    const { token } = this.random.pick(sessions.slice(-3));
    await this.exchange('/v1/sessions/current', token);
  }

  private recordRow(resource: string, version: number, { request, begin, end }: Exchange): void {
    const read = { resource, request, version, etag: undefined, body: undefined };
    this.recording.reads.push({ ...read, begin, end });
  }

  /** @returns undefined when there was no answer, or one without data */
  private async exchange(
    path: string,
    token: string,
    headers: Readonly<Record<string, string>> = {},
    statuses: readonly number[] = [200],
  ): Promise<Exchange | undefined> {
    const node = this.caller.pickNode(this.random);
    const begin = performance.now();
    const request = { method: 'GET', path, token, headers };
    const reply = await this.caller.send(node, request);
    const end = performance.now();
    if (!reply || reply.status === 503) return undefined;
    const description = `GET ${path} on node ${node}`;
    const isAccepted = reply.status !== 401;
    const use = { session: token, request: description, isAccepted, begin, end };
    this.recording.sessionUses.push(use);
    if (!isAccepted) return undefined;
    if (!statuses.includes(reply.status)) {
      this.caller.problem(request, codeOf(reply));
      return undefined;
    }
    return { request: description, reply, begin, end };
  }
}

const rowsOf = ({ body }: Reply): Row[] => (body as { data: Row[] }).data;
