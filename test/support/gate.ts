/** A gate that is closed until a test opens it: stops code between two of its steps. */
export class Gate {
  private release: () => void = () => undefined;

  /** Resolves when the gate opens. */
  readonly opened = new Promise<void>((resolve) => {
    this.release = resolve;
  });

  /** Lets everybody through, now and later. */
  open(): void {
    this.release();
  }
}
