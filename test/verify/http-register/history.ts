/**
 * What HTTP clients did and saw, for the checker. Times are milliseconds of one process's
 * monotonic clock. A write that was sent several times, because its answer was lost, is one write.
 */

/** A write of one resource: a user, an order or a session. */
export interface Write {
  readonly resource: string;
  /** The version that it makes; {@link GONE} when it ends the resource. */
  readonly version: number;
  readonly begin: number;
  /** Infinity while nobody has acknowledged it. */
  acknowledgedAt: number;
  /** The order's owner. */
  readonly owner?: string;
  /** The user's name from this version on. */
  readonly name?: string;
}

/** The version of a user that was deleted and of a session that was ended. */
export const GONE = Number.MAX_SAFE_INTEGER;

/** A representation of a user or an order that a client got. */
export interface Read {
  readonly resource: string;
  /** E.g. `GET /v1/orders/{id} on node 1`. */
  readonly request: string;
  /** 0: not found. Of a 304 the version that the client named. */
  readonly version: number;
  /** Undefined where the response has no ETag, e.g. in a list. */
  readonly etag: string | undefined;
  /** The body; undefined without one. */
  readonly body: string | undefined;
  readonly begin: number;
  readonly end: number;
}

/** The first page of a user's orders. */
export interface ListRead {
  readonly owner: string;
  readonly request: string;
  readonly orders: readonly string[];
  readonly begin: number;
  readonly end: number;
}

/** `GET /v1/users?username=`. */
export interface Search {
  readonly name: string;
  readonly request: string;
  /** Undefined: nobody has the name. */
  readonly user: string | undefined;
  readonly begin: number;
  readonly end: number;
}

/** A request with the token of a session. */
export interface SessionUse {
  readonly session: string;
  readonly request: string;
  readonly isAccepted: boolean;
  readonly begin: number;
  readonly end: number;
}

/** A successful answer to a request with an Idempotency-Key. */
export interface KeyedAnswer {
  readonly key: string;
  readonly answer: string;
}

export interface History {
  readonly writes: readonly Write[];
  readonly reads: readonly Read[];
  readonly lists: readonly ListRead[];
  readonly searches: readonly Search[];
  readonly sessionUses: readonly SessionUse[];
  readonly answers: readonly KeyedAnswer[];
}

export class Recording implements History {
  readonly writes: Write[] = [];
  readonly reads: Read[] = [];
  readonly lists: ListRead[] = [];
  readonly searches: Search[] = [];
  readonly sessionUses: SessionUse[] = [];
  readonly answers: KeyedAnswer[] = [];

  /** Call it before the request is sent. */
  begin(write: Omit<Write, 'begin' | 'acknowledgedAt'>): Write {
    const begun = { ...write, begin: performance.now(), acknowledgedAt: Infinity };
    this.writes.push(begun);
    return begun;
  }
}
