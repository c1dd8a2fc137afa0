"""JupyterLab as `make lab` starts it: every kernel runs in the repository root, as the stages do."""

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager


class RootKernelManager(AsyncMappingKernelManager):
    """Starts kernels in the server's root folder, where Jupyter would take the notebook's own."""

    def cwd_for_path(self, path, **kwargs):
        return self.root_dir


c = get_config()  # noqa: F821 - Jupyter provides it
c.ServerApp.kernel_manager_class = RootKernelManager
