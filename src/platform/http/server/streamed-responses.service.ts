/**
 * Answers that are streamed for as long as a client reads. Invariant: who does not read holds nothing for long: after a bounded
 * time without progress the connection is cut, and soon once the process drains, so that no stalled client delays a stop. What a
 * stream was made of is released whenever it ends, however it ends.
 */
import { Readable } from 'node:stream';
import { type BeforeApplicationShutdown, Injectable, Optional } from '@nestjs/common';
import type { FastifyReply } from 'fastify';

/** Milliseconds without a byte taken after which a client is cut. */
export interface Patience {
  readonly serving: number;
  readonly draining: number;
}

export const PATIENCE: Patience = { serving: 30_000, draining: 1_000 };

@Injectable()
export class StreamedAnswers implements BeforeApplicationShutdown {
  private readonly open = new Set<FastifyReply>();
  private draining = false;

  constructor(@Optional() private readonly patience: Patience = PATIENCE) {}

  /** Sends what `chunks` gives, as fast as the client takes it; the generator is closed when the client goes. */
  send(reply: FastifyReply, chunks: AsyncIterable<string> | Iterable<string>): void {
    const { raw } = reply;
    this.open.add(reply);
    raw.once('close', () => this.open.delete(reply));
    // The socket's own timer: any byte that leaves starts it again, so that slow is not stalled. When it ends, Node destroys the socket.
    raw.setTimeout(this.draining ? this.patience.draining : this.patience.serving);
    void reply.send(Readable.from(chunks, { highWaterMark: 1 }));
  }

  beforeApplicationShutdown(): void {
    this.draining = true;
    for (const { raw } of this.open) raw.setTimeout(this.patience.draining);
  }
}
