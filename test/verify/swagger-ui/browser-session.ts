/** A page in a new browser, and everything that went wrong in it. */
import { type Browser, chromium, type Page } from 'playwright-core';
import { withDeadline } from '../../../src/platform/timing/deadline.js';

/** Of one action in the browser. */
export const STEP_TIMEOUT_MS = 20_000;
const LAUNCH_TIMEOUT_MS = 60_000;

const ARGUMENTS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** Chromium logs every such response. The steps check which of them are expected. */
const CLIENT_ERROR_MESSAGE = /^Failed to load resource: the server responded with a status of 4/;

/** A navigation cancels requests of the page before it, e.g. for its icon. */
const CANCELLED = 'net::ERR_ABORTED';

export class BrowserSession {
  /** Errors and warnings in the console, failed requests, violations of the content policy. */
  readonly problems: string[] = [];

  private constructor(
    private readonly browser: Browser,
    readonly page: Page,
  ) {}

  static async open(executablePath: string): Promise<BrowserSession> {
    const browser = await chromium.launch({
      executablePath,
      args: ARGUMENTS,
      timeout: LAUNCH_TIMEOUT_MS,
    });
    const page = await browser.newPage({ viewport: { width: 1280, height: 1400 } });
    page.setDefaultTimeout(STEP_TIMEOUT_MS);
    page.setDefaultNavigationTimeout(STEP_TIMEOUT_MS);
    const session = new BrowserSession(browser, page);
    session.watchPage();
    await session.watchContentPolicy();
    return session;
  }

  async close(): Promise<void> {
    await withDeadline(STEP_TIMEOUT_MS, 'Closing the browser', this.browser.close());
  }

  /** Failures are ignored: a screenshot is for people only. */
  async takeScreenshot(path: string): Promise<void> {
    await this.page.screenshot({ path, timeout: STEP_TIMEOUT_MS }).catch(() => undefined);
  }

  private watchPage(): void {
    const { page, problems } = this;
    page.on('console', (message) => {
      const isProblem = ['error', 'warning'].includes(message.type());
      if (!isProblem || CLIENT_ERROR_MESSAGE.test(message.text())) return;
      problems.push(`console ${message.type()}: ${message.text()}`);
    });
    page.on('pageerror', (error) => problems.push(`uncaught: ${error.message}`));
    page.on('requestfailed', (request) => {
      const error = request.failure()?.errorText;
      if (error !== CANCELLED) problems.push(`failed: ${request.url()} ${error}`);
    });
    page.on('response', (response) => {
      const { pathname } = new URL(response.url());
      const isUnexpected = response.status() >= 400 && !pathname.startsWith('/v1/');
      if (isUnexpected) problems.push(`${response.status()} ${pathname}`);
    });
  }

  private async watchContentPolicy(): Promise<void> {
    await this.page.exposeFunction('reportViolation', (violation: string) =>
      this.problems.push(`Content-Security-Policy: ${violation}`),
    );
    // The script runs in the browser: it is text, so that no type of the browser is needed here.
    await this.page.addInitScript(`
      addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
        reportViolation(violatedDirective + ' refused ' + blockedURI));
    `);
  }
}
