/**
 * Whether this node may answer from the cache at all. It may not while it could have missed an invalidation that came by the
 * database's own path: its LISTEN connection is down, or it or the cache has just come back and the table of invalidations
 * has not been seen empty since. Closed, every read goes to PostgreSQL and fills nothing.
 *
 * Invariant: open only if every invalidation committed before the later of the two (re)connections has been applied.
 */
import { Injectable } from '@nestjs/common';

@Injectable()
export class ReadGate {
  private generation = 0;
  private opened = false;
  /** Told of each {@link close}: whoever can open it again sets about it. */
  onClosed: () => void = () => undefined;

  /** Closed until {@link open} is called with a pass taken after this moment. */
  close(): void {
    this.generation++;
    this.opened = false;
    this.onClosed();
  }

  /** To be taken before looking at the table; void when the gate is closed again meanwhile. */
  pass(): number {
    return this.generation;
  }

  open(pass: number): void {
    if (pass === this.generation) this.opened = true;
  }

  get isOpen(): boolean {
    return this.opened;
  }
}
