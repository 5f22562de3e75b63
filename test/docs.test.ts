/** What the documentation names exists: links, error codes, commands and their options, keys, scripts. */

import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { createPlugin, ERROR_CODES } from 'forrest-gitlab';
import { parse } from 'yaml';
import { createProgram } from '../fixtures/host/src/cli/program.ts';
import { configSchema } from '../fixtures/host/src/config-schema.ts';
import { OWN_PLACEHOLDERS } from '../fixtures/host/src/drivers/index.ts';
import { createGithubPlugin } from '../fixtures/host/src/github/index.ts';
import { HOST_ERROR_CODES } from '../fixtures/host/src/lib/errors.ts';

const ROOT = path.join(import.meta.dirname, '..');
const read = (file: string): string => readFileSync(path.join(ROOT, file), 'utf8');
const PAGES = globSync(['*.md', 'docs/*.md', 'fixtures/**/*.md'], {
  cwd: ROOT,
  exclude: ['**/node_modules/**'],
});

/** Text without its code blocks, in which brackets are no links. */
const prose = (page: string): string => read(page).replace(/^```[\s\S]*?^```$/gm, '');

/** As GitHub and GitLab make them of headings. */
function anchorsOf(page: string): Set<string> {
  return new Set(
    [...prose(page).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  );
}

describe('links', () => {
  for (const page of PAGES) {
    it(`of ${page} lead somewhere`, () => {
      for (const [, target = ''] of prose(page).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        const [file = '', anchor] = target.split('#');
        const to = file === '' ? page : path.join(path.dirname(page), file);
        assert.ok(existsSync(path.join(ROOT, to)), `${page}: ${target}`);
        if (anchor !== undefined) assert.ok(anchorsOf(to).has(anchor), `${page}: ${target}`);
      }
    });
  }
});

it('errors.md has each code with its meaning, a cause and a remedy, and no other', () => {
  const sections = read('docs/errors.md').split(/^## /m);
  for (const [title, codes] of [
    ['The host', HOST_ERROR_CODES],
    ['The plugin for GitLab', ERROR_CODES],
  ] as const) {
    const section = sections.find((text) => text.startsWith(title)) ?? '';
    const rows = [...section.matchAll(/^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$/gm)];
    assert.deepEqual(
      Object.fromEntries(rows.map(([, code = '', meaning = '']) => [code, meaning])),
      { ...codes },
    );
  }
});

it('templates.md has each placeholder, and who fills it in', () => {
  const rows = read('docs/templates.md').matchAll(/^\| (`[A-Z_`, ]+`) \| (?:the )?(\w+) \|/gm);
  const documented = [...rows].flatMap(([, names = '', of]) =>
    [...names.matchAll(/[A-Z_]+/g)].map(([name]) => `${of} ${name}`),
  );
  const filledIn = {
    host: OWN_PLACEHOLDERS,
    gitlab: createPlugin().placeholders ?? [],
    github: createGithubPlugin().placeholders ?? [],
  };
  assert.deepEqual(
    documented.toSorted(),
    Object.entries(filledIn)
      .flatMap(([of, names]) => names.map((name) => `${of} ${name}`))
      .toSorted(),
  );
});

describe('commands', () => {
  const commands = new Map(createProgram().commands.map((command) => [command.name(), command]));
  const optionsOf = (name: string): string[] => [
    '--help',
    ...(commands.get(name)?.options ?? []).flatMap((option) =>
      [option.long, option.short].filter((flag) => flag != null),
    ),
  ];

  it('are all in commands.md, with their options', () => {
    const documented = new Set<string>();
    for (const [, names = '', options = ''] of read('docs/commands.md').matchAll(
      /^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \| .* \| (.*) \|$/gm,
    )) {
      for (const [, name = ''] of names.matchAll(/`([a-z-]+)`/g)) {
        documented.add(name);
        const told = [...options.matchAll(/--[a-z-]+/g)].map(([flag]) => flag);
        const has = (commands.get(name)?.options ?? [])
          .filter(({ hidden, long }) => !hidden && long !== '--config')
          .map(({ long }) => long);
        assert.deepEqual(told.toSorted(), has.toSorted(), name);
      }
    }
    assert.deepEqual([...documented].toSorted(), [...commands.keys()].toSorted());
  });

  it('that pages show exist, as do their options', () => {
    for (const page of PAGES) {
      for (const [, name = '', rest = ''] of read(page).matchAll(
        /forrest-host ([a-z][a-z-]*)((?: (?:-{1,2}[a-z-]+|[A-Z]+|[\w./-]+))*)/g,
      )) {
        // Prose, such as "forrest-host is".
        if (!commands.has(name) && !rest.includes(' -')) continue;
        assert.ok(commands.has(name), `${page}: forrest-host ${name}`);
        for (const [flag] of rest.matchAll(/(?<= )--?[a-z][a-z-]*/g)) {
          assert.ok(optionsOf(name).includes(flag), `${page}: forrest-host ${name} ${flag}`);
        }
      }
    }
  });

  it('say what they do in a sentence', () => {
    for (const command of commands.values()) {
      assert.match(command.description(), /^[A-Z].*\.$/, command.name());
      for (const option of command.options)
        assert.ok(option.hidden || option.description || option.argChoices);
    }
  });
});

it('scripts that pages show exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  for (const page of PAGES) {
    for (const [, name = ''] of read(page).matchAll(/npm run ([a-z][a-z:-]*[a-z])/g)) {
      assert.ok(name in scripts, `${page}: npm run ${name}`);
    }
  }
});

it('forks run what decides here', () => {
  for (const file of ['.github/workflows/ci.yml', '.gitlab-ci.yml']) {
    const scripts = JSON.stringify(parse(read(file))).match(
      /"(?:run|script)":(?:\["|")\.ci\/run"/g,
    );
    assert.equal(scripts?.length, 1, file);
  }
});

interface ObjectSchema {
  readonly properties: Readonly<Record<string, { readonly default?: unknown }>>;
  readonly required: readonly string[];
}

/** Keys, defaults and what is required, of a page's first table below `start`, against the schema. */
function assertTable(page: string, start: string, { properties, required }: ObjectSchema): void {
  const [, table = ''] = /^((?:\|.*\n)+)/m.exec(read(page).split(start)[1] ?? '') ?? [];
  const [head = '', , ...rows] = table.trim().split('\n');
  const column = head.split('|').findIndex((title) => title.trim() === 'default');
  const told = new Map<string, string>();
  for (const row of rows) {
    const cells = row.split(' | ');
    const cell = (cells[column - 1] ?? '').replace(/[`"]/g, '').trim();
    for (const [, key = ''] of (cells[0] ?? '').matchAll(/`([a-z_]+)(?:\.\w+)?`/g)) {
      if (!told.has(key)) told.set(key, cell);
    }
  }
  assert.deepEqual([...told.keys()].toSorted(), Object.keys(properties).toSorted(), page);
  for (const [key, cell] of told) {
    assert.equal(cell === 'required', required.includes(key), `${page}: ${key} is required`);
    const value = properties[key]?.default;
    if (value === undefined || typeof value === 'object') continue;
    assert.equal(cell, String(value), `${page}: default of ${key}`);
  }
}

describe('tables of the configuration have the keys and defaults of the schema', () => {
  const objectOf = (schema: unknown): ObjectSchema => schema as ObjectSchema;

  it('configuration.md and github.md: the host’s', async () => {
    const { properties } = objectOf(await configSchema(null));
    const { additionalProperties: machine } = properties['machines'] as {
      additionalProperties: unknown;
    };
    assertTable('docs/configuration.md', '\n## `host`\n', objectOf(properties['host']));
    assertTable('docs/configuration.md', '\n## `machines`\n', objectOf(machine));
    assertTable('docs/github.md', '\n## The `github:` section\n', objectOf(properties['github']));
    const page = read('docs/configuration.md');
    for (const key of Object.keys(properties)) assert.ok(page.includes(`\`${key}\``), key);
  });

  it('gitlab.md: the plugin’s', () => {
    const section = objectOf(createPlugin().configSchema);
    const { items } = section.properties['runners'] as { items?: unknown };
    assertTable('docs/gitlab.md', '# The `gitlab:` section\n', section);
    assertTable('docs/gitlab.md', '\nEach of `runners` ', objectOf(items));
  });
});

it('each page is linked from the README', () => {
  const readme = read('README.md');
  for (const page of globSync('docs/*.md', { cwd: ROOT })) {
    assert.ok(new RegExp(`\\(${RegExp.escape(page)}(#[^)]*)?\\)`).test(readme), page);
  }
});
