/**
 * Sends responses as streams. Invariant: a client that stops reading does not hold resources or
 * delay a shutdown. Its connection is closed after a time without progress, and the source of the
 * stream is released.
 */
import { Readable } from 'node:stream';
import { Injectable, type OnModuleDestroy, Optional } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

/** Milliseconds without a byte read after which a connection is closed. */
export interface StallTimeouts {
  readonly serving: number;
  readonly draining: number;
}

export const STALL_TIMEOUTS_MS: StallTimeouts = { serving: 30_000, draining: 1_000 };

/** Node's clients read it from `response.trailers`. Clients that know no trailers ignore it. */
const TOTAL_COUNT = 'X-Total-Count';

const countLines = (text: string): number => text.split('\n').length - 1;

@Injectable()
export class StreamedResponses implements OnModuleDestroy {
  private readonly open = new Set<FastifyReply>();
  private isDraining = false;

  constructor(@Optional() private readonly timeoutsMs: StallTimeouts = STALL_TIMEOUTS_MS) {}

  /**
   * Sends `chunks` as fast as the client reads. When the response ends, for any reason, the
   * iterator is closed (`return()`).
   */
  send(reply: FastifyReply, chunks: AsyncIterable<string> | Iterable<string>): void {
    const { raw } = reply;
    this.open.add(reply);
    raw.once('close', () => this.open.delete(reply));
    // The socket's timer restarts with each byte that leaves, so a slow client is not a stalled
    // one. When it ends, Node destroys the socket.
    raw.setTimeout(this.isDraining ? this.timeoutsMs.draining : this.timeoutsMs.serving);
    void reply.send(Readable.from(chunks, { highWaterMark: 1 }));
  }

  /**
   * Sends chunks of whole lines. A complete response ends with the trailer field `X-Total-Count`:
   * the number of lines. When `chunks` throws, the connection is closed without it.
   */
  sendLines(reply: FastifyReply, chunks: AsyncIterable<string>): void {
    let count = 0;
    const counted = async function* (): AsyncGenerator<string> {
      for await (const chunk of chunks) {
        yield chunk;
        count += countLines(chunk);
      }
    };
    // Before HTTP/1.1 there are no chunks, and so no trailers.
    const hasTrailers = reply.request.raw.httpVersion !== '1.0';
    if (hasTrailers) void reply.trailer(TOTAL_COUNT, () => Promise.resolve(String(count)));
    this.send(reply, counted());
  }

  /** Not beforeApplicationShutdown: there, HealthModule first waits for load balancers. */
  onModuleDestroy(): void {
    this.isDraining = true;
    for (const { raw } of this.open) raw.setTimeout(this.timeoutsMs.draining);
  }
}
