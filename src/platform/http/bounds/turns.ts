/**
 * Begins a few requests in each turn of the event loop, in the order in which they arrived. Node
 * accepts one connection in a turn (libuv, uv__server_io): while clients with open connections made
 * turns long, others could not connect.
 */

/** At half a millisecond each, a turn takes a few milliseconds. */
const MAX_PER_TURN = 8;

export class Turns {
  private begun = 0;
  private isScheduled = false;
  private readonly waiting: (() => void)[] = [];

  begin(work: () => void): void {
    this.scheduleNext();
    if (this.begun === MAX_PER_TURN) {
      this.waiting.push(work);
    } else {
      this.begun++;
      work();
    }
  }

  private scheduleNext(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    setImmediate(() => {
      this.isScheduled = false;
      this.begun = 0;
      for (const work of this.waiting.splice(0, MAX_PER_TURN)) this.begin(work);
    });
  }
}
