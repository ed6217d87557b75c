/** Pages for people at `/problems` and `/problems/<code>`: what each problem means. */
import { Controller, Get, Header, Param } from '@nestjs/common';
import { RouteConfig } from '@nestjs/platform-fastify';
import { ApiExcludeController } from '@nestjs/swagger';
import { Operation } from '../openapi/operation.decorator.js';
import { problemCatalogue, problems } from './problem.js';

const HTML = 'text/html; charset=utf-8';
const STYLE = [
  'body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}',
  'body{color:#1b2733}',
  'code{background:#eef2f6;padding:.1em .3em}',
  'a{color:#0b5cad}',
].join('');

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

const page = (title: string, body: string): string =>
  [
    '<!doctype html><html lang="en"><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width">',
    `<title>${escapeHtml(title)}</title><style>${STYLE}</style><body>${body}</body></html>`,
  ].join('');

@ApiExcludeController()
@Controller('problems')
export class ProblemsController {
  @Get()
  @RouteConfig({ produces: ['text/html'] })
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
    return page('Problems', `<h1>Problems</h1><ul>${items.join('')}</ul>`);
  }

  @Get(':code')
  @RouteConfig({ produces: ['text/html'] })
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
    return page(title, paragraphs.join(''));
  }
}
