/**
 * Whether this node may answer from the cache. While the gate is closed, every read goes to
 * PostgreSQL and fills nothing.
 *
 * Invariant: an open gate means that every row of `cache_invalidations` committed before the latest
 * reconnection (of the LISTEN connection or of the cache) has been applied.
 */
import { Injectable } from '@nestjs/common';

@Injectable()
export class ReadGate {
  private generation = 0;
  private isOpened = false;
  /** Called at each {@link close}, so that its listener works towards opening the gate again. */
  onClosed: () => void = () => undefined;

  /** Keeps the gate closed until {@link open} is called with a pass taken after this moment. */
  close(): void {
    this.generation++;
    this.isOpened = false;
    this.onClosed();
  }

  /**
   * Take it before looking whether `cache_invalidations` is empty.
   * @returns a pass for {@link open}; the next {@link close} voids it
   */
  takePass(): number {
    return this.generation;
  }

  /** Opens the gate, unless it was closed since the pass was taken. */
  open(pass: number): void {
    if (pass === this.generation) this.isOpened = true;
  }

  get isOpen(): boolean {
    return this.isOpened;
  }
}
