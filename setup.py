"Reads everything from settings.ini, so that name, version and requirements stand in one place."
import json
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
RUN_BY_PAPERMILL = [
    *(f'4_training/{name}.ipynb' for name in ('train', 'measure', 'attack')), '5_findings/report.ipynb',
    '5_findings/figures/*.ipynb', 'explore.ipynb']

CLASSIFIERS = [
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3 :: Only',
    'Programming Language :: Python :: 3.11',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
]


class WithoutOutputs(build_py):
    "Notebooks are installed without their outputs, of which the pictures are megabytes."
    def build_package_data(self):
        super().build_package_data()
        for path in Path(self.build_lib).glob('binenc/nbs/**/*.ipynb'):
            notebook = json.loads(path.read_text(encoding='utf-8'))
            for cell in notebook['cells']:
                if cell['cell_type'] == 'code':
                    cell.update(outputs=[], execution_count=None)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


setup(
    cmdclass={'build_py': WithoutOutputs},
    name=settings['lib_name'],
    version=settings['version'],
    description=settings['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8') if (here / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author=settings['author'],
    license='Apache-2.0',
    keywords=settings['keywords'].split(),
    classifiers=CLASSIFIERS,
    project_urls={'Paper': 'https://arxiv.org/abs/2310.08224'},
    # the notebooks that papermill runs travel with the library, so that an installed `binenc` works in any folder
    packages=['binenc', 'binenc.nbs'],
    package_dir={'binenc.nbs': 'nbs'},
    package_data={'binenc': ['py.typed', 'published_results.csv', 'player.js', 'report.html.j2'],
                  'binenc.nbs': RUN_BY_PAPERMILL},
    python_requires=f">={settings['min_python']}",
    install_requires=settings['requirements'].split(),
    extras_require={name.removesuffix('_requirements'): packages.split() for name, packages in settings.items()
                    if name.endswith('_requirements')},
    entry_points={'console_scripts': settings['console_scripts'].split()},
)
