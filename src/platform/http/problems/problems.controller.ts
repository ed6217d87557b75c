/** Pages for people at `/problems` and `/problems/<code>`: what each problem means. */
import { Controller, Get, Header, Param } from '@nestjs/common';
import { RouteSettings } from '../server/route-settings.decorator.js';
import { ApiExcludeController } from '@nestjs/swagger';
import { escapeHtml, HTML, htmlPage } from '../html-page.js';
import { Operation } from '../openapi/operation.decorator.js';
import { problemCatalogue, problems } from './problem.js';

@ApiExcludeController()
@Controller('problems')
export class ProblemsController {
  @Get()
  @RouteSettings({ produces: ['text/html'] })
  @Header('Content-Type', HTML)
  @Header('Cache-Control', 'private, no-cache')
  @Operation({ allow: 'anyone', summary: 'List all problems' })
  listProblems(): string {
    const sorted = [...problemCatalogue.values()].sort(
      (a, b) => a.status - b.status || a.code.localeCompare(b.code),
    );
    const items = sorted.map(({ code, status, title }) => {
      const link = `<a href="/problems/${code}"><code>${code}</code></a>`;
      return `<li>${status} ${link}: ${escapeHtml(title)}</li>`;
    });
    return htmlPage('Problems', `<h1>Problems</h1><ul>${items.join('')}</ul>`);
  }

  @Get(':code')
  @RouteSettings({ produces: ['text/html'] })
  @Header('Content-Type', HTML)
  @Header('Cache-Control', 'private, no-cache')
  @Operation({ allow: 'anyone', summary: 'Explain a problem' })
  explainProblem(@Param('code') wanted: string): string {
    const problem = problemCatalogue.get(wanted);
    if (!problem) throw problems.notFound();
    const { code, status, title, explanation } = problem;
    const paragraphs = [
      '<p><a href="/problems">Problems</a></p>',
      `<h1>${escapeHtml(title)}</h1>`,
      `<p><code>${code}</code>, HTTP status ${status}</p>`,
      `<p>${escapeHtml(explanation)}</p>`,
    ];
    return htmlPage(title, paragraphs.join(''));
  }
}
