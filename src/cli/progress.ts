/** The progress of a long command, on stderr. */

export interface Progress {
  /**
   * @param done how much of the total is done
   * @param note shown beside it, e.g. a rate
   */
  update(done: number, note?: string): void;
  stop(): void;
}

/**
 * A progress bar on a terminal, if the package `cli-progress` is installed (it is a development
 * dependency). Elsewhere a plain line for each tenth.
 */
export async function startProgress(label: string, total: number, unit: string): Promise<Progress> {
  const library = process.stderr.isTTY ? await loadCliProgress() : undefined;
  if (!library) return plainProgress(label, total, unit);
  const bar = new library.SingleBar({
    format: `${label} {bar} {percentage} % | {value} of {total} ${unit} | {note}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
  });
  bar.start(total, 0, { note: '' });
  return {
    update: (done, note = '') => bar.update(Math.min(done, total), { note }),
    stop: () => bar.stop(),
  };
}

async function loadCliProgress(): Promise<typeof import('cli-progress') | undefined> {
  try {
    return (await import('cli-progress')).default;
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}

function plainProgress(label: string, total: number, unit: string): Progress {
  let reportedTenths = 0;
  return {
    update(done, note = '') {
      const shown = Math.min(done, total);
      const tenths = Math.floor((shown / total) * 10);
      if (tenths <= reportedTenths) return;
      reportedTenths = tenths;
      const suffix = note ? `, ${note}` : '';
      process.stderr.write(`${label}: ${shown} of ${total} ${unit}${suffix}\n`);
    },
    stop: () => undefined,
  };
}
