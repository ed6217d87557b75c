/** `/problems/<code>`: what each refusal means, as a page for people. */
import { Controller, Get, Header, Param } from '@nestjs/common';
import { RouteConfig } from '@nestjs/platform-fastify';
import { ApiExcludeController } from '@nestjs/swagger';
import { Operation } from './openapi.js';
import { problemCatalogue, problems } from './problem.js';

const HTML = 'text/html; charset=utf-8';
const STYLE =
  'body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem;color:#1b2733}code{background:#eef2f6;padding:.1em .3em}a{color:#0b5cad}';

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
const page = (title: string, body: string): string =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escapeHtml(title)}</title><style>${STYLE}</style><body>${body}</body></html>`;

@ApiExcludeController()
@Controller('problems')
export class ProblemsController {
  @Get()
  @RouteConfig({ produces: ['text/html'] })
  @Header('Content-Type', HTML)
  @Header('Cache-Control', 'private, no-cache')
  @Operation({ allow: 'anyone', summary: 'All problems' })
  listProblems(): string {
    const rows = [...problemCatalogue.values()].sort(
      (one, other) => one.status - other.status || one.code.localeCompare(other.code),
    );
    const items = rows.map(
      ({ code, status, title }) =>
        `<li>${status} <a href="/problems/${code}"><code>${code}</code></a>: ${escapeHtml(title)}</li>`,
    );
    return page('Problems', `<h1>Problems</h1><ul>${items.join('')}</ul>`);
  }

  @Get(':code')
  @RouteConfig({ produces: ['text/html'] })
  @Header('Content-Type', HTML)
  @Header('Cache-Control', 'private, no-cache')
  @Operation({ allow: 'anyone', summary: 'What a problem means' })
  explainProblem(@Param('code') wanted: string): string {
    const problem = problemCatalogue.get(wanted);
    if (!problem) throw problems.notFound();
    const { code, status, title, explanation } = problem;
    return page(
      title,
      `<p><a href="/problems">Problems</a></p><h1>${escapeHtml(title)}</h1><p><code>${code}</code>, HTTP status ${status}</p><p>${escapeHtml(explanation)}</p>`,
    );
  }
}
